"""Every key of `model_index.json` has another value here: the checkpoint is refused, or read as diffusers reads it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.scheduler import OWN, REPLACED
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.samplers.starting import start
from sfmobile.verify.diffusers_reference import READING_GATE_DB, compare_reading
from tests.checkpoint.diffusers_files import stable_diffusion_1
from tests.checkpoint.test_every_key import LATENTS, MENDED, STEPS, arguments, steps_of
from tests.sampling.pipelines import reference_pipeline

VALUES: dict[str, list[Any]] = {
    "_class_name": ["StableDiffusionImg2ImgPipeline", "StableDiffusionUpscalePipeline", None],
    "_diffusers_version": ["0.5.0"],
    "vae": [["diffusers", "AutoencoderTiny"], ["diffusers", "AsymmetricAutoencoderKL"], [None, None]],
    "unet": [["diffusers", "UNet2DModel"], [None, None]],
    # Not a text model with projection, which is read here and which diffusers' pipeline can't draw with.
    "text_encoder": [["transformers", "BertModel"], [None, None]],
    "tokenizer": [["transformers", "CLIPTokenizerFast"], ["transformers", "BertTokenizer"], [None, None]],
    "feature_extractor": [["transformers", "CLIPImageProcessor"]],
    "image_encoder": [["transformers", "CLIPVisionModelWithProjection"]],
    "safety_checker": [["stable_diffusion", "StableDiffusionSafetyChecker"]],
    "requires_safety_checker": [True],
}
OTHER_FILES = {"feature_extractor", "image_encoder", "safety_checker"}
REQUEST = Request("a red apple", "green", 3, 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("index") / "base"
    stable_diffusion_1().save_pretrained(root)
    return root


def with_value(base: Path, root: Path, key: str, value: object) -> Path:
    root.mkdir()
    for path in base.iterdir():
        if path.is_dir():
            (root / path.name).symlink_to(path)
    index = json.loads((base / "model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps({**index, key: value}))
    return root


def test_every_key_that_a_pipeline_reads_has_another_value_here(base: Path) -> None:
    read = set(inspect.signature(diffusers.StableDiffusionPipeline.__init__).parameters) - {"self"}
    written = set(json.loads((base / "model_index.json").read_text()))
    assert read | written <= {*VALUES, "scheduler"}


@pytest.mark.parametrize(
    ("key", "number"), [(key, place) for key, some in VALUES.items() for place in range(len(some))]
)
def test_a_key_of_the_index_is_refused_or_read_as_in_diffusers(
    key: str, number: int, base: Path, tmp_path: Path
) -> None:
    root = with_value(base, tmp_path / "copy", key, VALUES[key][number])
    try:
        checkpoint = Checkpoint.open(root)
    except ArtifactError:
        return
    try:
        diffusers.StableDiffusionPipeline.from_pretrained(root, requires_safety_checker=False)
    except (OSError, ValueError):
        # Without a picture of diffusers', for files that aren't there.
        assert key in OTHER_FILES
        return
    with reference_pipeline(checkpoint) as pipeline:
        stages = compare_reading(checkpoint, pipeline, REQUEST)
    assert all(stage.agreement.reaches(READING_GATE_DB) for stage in stages), stages


def test_the_class_of_the_scheduler_is_the_indexs_as_in_diffusers(base: Path, tmp_path: Path) -> None:
    """Whatever class wrote the scheduler's own file, PNDM here."""
    for name in (*OWN, *REPLACED, "FlowMatchEulerDiscreteScheduler"):
        root = with_value(base, tmp_path / name, "scheduler", ["diffusers", name])
        try:
            checkpoint = Checkpoint.open(root)
        except ArtifactError:
            assert name not in OWN
            continue
        if checkpoint.sampler_replaced:
            continue
        kind = getattr(diffusers, name)
        # Its pipelines mend both of these in every file.
        mended = {key: value for key, value in MENDED.items() if key in arguments(kind)}
        theirs = kind.from_pretrained(root, subfolder="scheduler", **mended)
        try:
            walk, ours = steps_of(theirs, checkpoint.sampler), start(checkpoint.sampler, STEPS)
        except (ValueError, UsageError):
            continue
        latents = LATENTS.numpy()
        for output, expected in walk:
            latents = ours.step(output, latents).latents
            assert np.abs(expected - latents).max() / np.abs(expected).max() < 1e-5, name
