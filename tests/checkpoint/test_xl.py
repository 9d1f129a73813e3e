"""Stable Diffusion XL: what is read of it, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.pipeline import Request
from sfmobile.verify.diffusers_reference import READING_GATE_DB, compare_reading
from tests.checkpoint.test_directory import rewrite_json
from tests.sampling.pipelines import reference_pipeline
from tests.tiny import TINY_XL_TEXT_ENCODER, TINY_XL_TEXT_ENCODER_2, TINY_XL_UNET


@pytest.fixture
def copy(tiny_xl_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    root = tmp_path / "xl"
    shutil.copytree(tiny_xl_checkpoint.root, root, copy_function=lambda a, b: Path(b).symlink_to(a))
    for file in root.rglob("*.json"):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    return root


def test_two_encoders_and_tokenizers_are_read_as_they_are_run(tiny_xl_checkpoint: Checkpoint) -> None:
    first, second = tiny_xl_checkpoint.texts
    assert first.layout == TINY_XL_TEXT_ENCODER and second.layout == TINY_XL_TEXT_ENCODER_2
    assert tiny_xl_checkpoint.unet_layout == TINY_XL_UNET
    assert first.tokenizer.pad_token_id == first.tokenizer.eos_token_id
    # OpenCLIP's pads with "!", the first token.
    assert second.tokenizer.pad_token_id == 0
    assert tiny_xl_checkpoint.pipeline.text_encoders == ("text_encoder", "text_encoder_2")
    added = tiny_xl_checkpoint.pipeline.added
    assert added is not None and added.component == "text_encoder_2"
    assert (added.pooled, added.dimension, added.zeros_without_negative) == (24, 8, True)


@pytest.mark.parametrize("negative", ["", "green"])
def test_skipped_layers_are_counted_from_the_penultimate_as_in_diffusers(
    negative: str, tiny_xl_checkpoint: Checkpoint
) -> None:
    checkpoint = tiny_xl_checkpoint.with_clip_skip(1)
    assert checkpoint.texts[0].layout.layers == 1 and checkpoint.texts[1].layout.state_layers == 1
    with reference_pipeline(checkpoint) as ours:
        stages = compare_reading(checkpoint, ours, Request("a red apple", negative, 3, 2))
    worst = min(stages, key=lambda stage: stage.agreement.closeness)
    assert worst.agreement.closeness >= READING_GATE_DB, worst


def _index(**values: object) -> Callable[[Path], None]:
    return lambda root: rewrite_json(root / "model_index.json", **values)


def _unet(**values: object) -> Callable[[Path], None]:
    return lambda root: rewrite_json(root / "unet" / "config.json", **values)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "refiner by its score": (
        _index(_class_name="StableDiffusionXLImg2ImgPipeline", requires_aesthetics_score=True),
        "refiner of Stable Diffusion XL .* export the base",
    ),
    "refiner by its encoders": (
        _index(_class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None], tokenizer=[None, None]),
        "refiner of Stable Diffusion XL",
    ),
    "no second tokenizer": (
        lambda root: shutil.rmtree(root / "tokenizer_2"),
        r"tokenizer_2 is missing, the tokenizer of text_encoder_2; put vocab\.json",
    ),
    "no second encoder": (
        lambda root: (root / "text_encoder_2" / "config.json").unlink(),
        r"text_encoder_2.config\.json' doesn't exist",
    ),
    "another class": (
        _index(_class_name="StableDiffusionPipeline"),
        "cross_attention_dim|takes no added embedding .* StableDiffusionXLPipeline",
    ),
    "no added embedding": (_unet(addition_embed_type=None), "takes pooled text and sizes .* StableDiffusionPipeline"),
    "another added embedding": (
        _unet(addition_embed_type="text_image"),
        "at addition_embed_type: .* found 'text_image'",
    ),
    "sizes that don't fit": (_unet(addition_time_embed_dim=12), "projection_class_embeddings_input_dim"),
    "pooled text that doesn't fit": (_unet(addition_time_embed_dim=4), "leaves 48 channels for the pooled text .* 24"),
    "uneven without a way up": (
        _unet(transformer_layers_per_block=[1, [2]]),
        "'transformer_layers_per_block' is .* 'reverse_transformer_layers_per_block' beside it",
    ),
    "too few depths": (
        _unet(transformer_layers_per_block=[1, [2]], reverse_transformer_layers_per_block=[[2], 1]),
        r"2 attention blocks have the transformer layers \[2\]",
    ),
    "other lengths": (
        lambda root: rewrite_json(root / "tokenizer_2" / "tokenizer_config.json", model_max_length=40),
        "40 and 77 tokens",
    ),
    "means of latents": (
        lambda root: rewrite_json(root / "vae" / "config.json", latents_mean=[0.1] * 4, latents_std=[2.0] * 4),
        "'latents_mean'",
    ),
    "a first encoder that projects": (
        _index(text_encoder=["transformers", "CLIPTextModelWithProjection"]),
        "'text_encoder' is a CLIPTextModelWithProjection; expected CLIPTextModel",
    ),
    "a second encoder that doesn't": (
        _index(text_encoder_2=["transformers", "CLIPTextModel"]),
        "'text_encoder_2' is a CLIPTextModel; expected CLIPTextModelWithProjection",
    ),
    "an editing model": (
        _index(_class_name="StableDiffusionXLInstructPix2PixPipeline"),
        "an editing model of Stable Diffusion XL",
    ),
    "a ControlNet's pipeline": (
        _index(_class_name="StableDiffusionXLControlNetPipeline"),
        "none of the pipelines of Stable Diffusion XL that sfmobile has",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_stable_diffusion_xl_is_refused_by_name(name: str, copy: Path) -> None:
    change, message = REFUSED[name]
    change(copy)
    with pytest.raises(ArtifactError, match=message):
        Checkpoint.open(copy)


def test_an_xl_of_few_steps_asks_how_many(copy: Path) -> None:
    rewrite_json(
        copy / "scheduler" / "scheduler_config.json",
        _class_name="EulerDiscreteScheduler",
        timestep_spacing="trailing",
        **{"_default_steps": None},
    )
    index = json.loads((copy / "model_index.json").read_text())
    saved = {key: value for key, value in index.items() if not key.startswith("_default")}
    (copy / "model_index.json").write_text(json.dumps(saved))
    with pytest.raises(UsageError, match="--default-steps"):
        _ = Checkpoint.open(copy).default_steps
