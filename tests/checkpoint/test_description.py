"""What a checkpoint is, by the class of model_index.json and the configs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from tests.checkpoint.families import TEXT_TO_IMAGE, write_family
from tests.checkpoint.test_directory import rewrite_json


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(TEXT_TO_IMAGE["SD 1.x"], tmp_path_factory.mktemp("family") / "sd1")


@pytest.fixture
def root(sd1: Path, tmp_path: Path) -> Path:
    shutil.copytree(sd1, tmp_path / "sd1", copy_function=os.link)
    return tmp_path / "sd1"


def changed(root: Path, file: str, **changes: Any) -> Path:
    """`root` with other values in a JSON file, which is no longer the linked one."""
    path = root / file
    content = path.read_text()
    path.unlink()
    path.write_text(content)
    rewrite_json(path, **changes)
    return root


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("StableDiffusionControlNetPipeline", "draws what a control picture says, which sfmobile can't do yet"),
        ("StableDiffusionXLPipeline", "text_encoder_2 is missing: a StableDiffusionXLPipeline has two text encoders"),
        ("StableDiffusionXLInstructPix2PixPipeline", "this is an editing model of Stable Diffusion XL"),
        ("StableDiffusionUpscalePipeline", "this is an upscaler"),
        ("StableDiffusionOwnPipeline", "is no pipeline that sfmobile has; expected one of StableDiffusionPipeline"),
        (["StableDiffusionPipeline"], "names no pipeline class"),
        (None, "never guessed"),
    ],
)
def test_another_pipeline_is_refused_by_name(root: Path, name: object, sentence: str) -> None:
    with pytest.raises(ArtifactError, match=sentence):
        Checkpoint.open(changed(root, "model_index.json", _class_name=name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("StableDiffusionInstructPix2PixPipeline", 8), ("StableDiffusionDepth2ImgPipeline", 5)],
)
def test_a_unet_of_another_class_is_refused(root: Path, name: str, expected: int) -> None:
    with pytest.raises(ArtifactError, match=f"UNet of a {name} takes {expected} channels .* is 4; .*StableDiffusionP"):
        Checkpoint.open(changed(root, "model_index.json", _class_name=name))


@pytest.mark.parametrize(
    ("size", "version", "expected"),
    [
        (32, "0.6.0", (64, 64)),
        (32, "0.8.1.dev0", (64, 64)),
        (32, "0.9.0", (32, 32)),
        (32, "0.10.2", (32, 32)),
        (32, None, (32, 32)),
        (96, "0.7.2", (96, 96)),
    ],
)
def test_small_sizes_of_before_diffusers_0_9_mean_64(
    root: Path, size: int, version: str | None, expected: tuple[int, int]
) -> None:
    changed(root, "unet/config.json", sample_size=size, _diffusers_version=version)
    assert Checkpoint.open(root).latent_size == expected


def test_a_model_of_few_steps_asks_for_how_many(root: Path) -> None:
    changed(root, "scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler", timestep_spacing="trailing")
    checkpoint = Checkpoint.open(root)
    for read in ("default_steps", "guidance_scale"):
        with pytest.raises(UsageError, match=r"of few steps .* give both: --default-steps and --default-guidance"):
            getattr(checkpoint, read)
    answered = checkpoint.with_defaults(1, 0.0)
    assert (answered.default_steps, answered.guidance_scale) == (1, 0.0)


def test_a_model_of_many_steps_asks_nothing(root: Path) -> None:
    changed(root, "scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler", timestep_spacing="leading")
    assert Checkpoint.open(root).default_steps == 8


def test_what_a_bundle_leaves_out_is_said(root: Path) -> None:
    changed(
        root,
        "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
    )
    description = Checkpoint.open(root).description
    assert description.notes == (
        "'image_encoder' (CLIPVisionModelWithProjection) is left out: the bundle has no use for it",
    )
    assert (
        list(description.missed) == ["safety_checker"]
        and "--with safety_checker" in description.missed["safety_checker"]
    )
    assert not description.with_optional(["safety_checker"]).missed
    changed(root, "model_index.json", safety_checker=["others", "TheirChecker"])
    assert Checkpoint.open(root).description.notes[1:] == (
        "the safety checker (TheirChecker) is left out: a bundle shows whatever it draws",
    )


def test_the_tokenizer_says_how_long_a_text_is(root: Path) -> None:
    with pytest.raises(ArtifactError, match="'model_max_length' is 120 and the text encoder has 77 positions"):
        Checkpoint.open(changed(root, "tokenizer/tokenizer_config.json", model_max_length=120))
    assert (
        Checkpoint.open(changed(root, "tokenizer/tokenizer_config.json", model_max_length=40)).tokenizer.max_length
        == 40
    )


@pytest.mark.parametrize("length", [0, -77, 77.5, "77", True])
def test_a_length_that_is_none_is_refused(root: Path, length: object) -> None:
    with pytest.raises(ArtifactError, match="expected 2 tokens or more"):
        Checkpoint.open(changed(root, "tokenizer/tokenizer_config.json", model_max_length=length))


@pytest.mark.parametrize("layers", [2, 5, -1])
def test_more_layers_than_there_are_cant_be_skipped(sd1: Path, layers: int) -> None:
    with pytest.raises(UsageError, match="expected 0 to 1"):
        Checkpoint.open(sd1).with_clip_skip(layers)
