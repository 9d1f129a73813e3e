"""A checkpoint that isn't there yet: a layout's shapes without weights, for what depends on shapes alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE, AddedEmbeddingCondition, ConditionRecord, TextCondition
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.checkpoint.config import SIZES
from sfmobile.checkpoint.description import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS, PIPELINES, Description
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.source import Source
from sfmobile.checkpoint.text import TextPart
from sfmobile.checkpoint.tokenizer import TokenizerConstants
from sfmobile.errors import UsageError
from sfmobile.nets.layout import (
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    SDXL_AUTOENCODER,
    SDXL_TEXT_ENCODER,
    SDXL_TEXT_ENCODER_2,
    SDXL_UNET,
    SNAPFUSION_AUTOENCODER,
    SNAPFUSION_UNET,
    SSD1B_UNET,
    AutoencoderLayout,
    TextEncoderLayout,
    UNetLayout,
)

# Before a layout's name, where a directory has the same one.
LAYOUT_PREFIX = "layout:"
# Stable Diffusion 1.5's constants.
SD15_SCHEDULER = DDIMRecord(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="epsilon",
    timestep_spacing="leading",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
    rescale_betas_zero_snr=False,
)
SD15_LATENT_SIZE = (64, 64)
# Stable Diffusion 2: heads of 64 channels at every resolution, and OpenCLIP ViT-H without its last layer.
_SD21_UNET = replace(SD15_UNET, name="sd21", heads=(5, 10, 20, 20), cross_attention_dim=1024)
_SD21_TEXT_ENCODER = TextEncoderLayout(hidden=1024, layers=23, heads=16, intermediate=4096, activation="gelu")
XL_LATENT_SIZE = (128, 128)


class Layouts(NamedTuple):
    """The networks of a pipeline that is known by a name; a second text encoder makes it a Stable Diffusion XL."""

    unet: UNetLayout
    text_encoder: TextEncoderLayout
    autoencoder: AutoencoderLayout
    latent_size: tuple[int, int] = SD15_LATENT_SIZE
    text_encoder_2: TextEncoderLayout | None = None


def _xl(unet: UNetLayout) -> Layouts:
    return Layouts(unet, SDXL_TEXT_ENCODER, SDXL_AUTOENCODER, XL_LATENT_SIZE, SDXL_TEXT_ENCODER_2)


LAYOUTS: dict[str, Layouts] = {
    "sd15": Layouts(SD15_UNET, SD15_TEXT_ENCODER, SD15_AUTOENCODER),
    "sd21": Layouts(_SD21_UNET, _SD21_TEXT_ENCODER, SD15_AUTOENCODER),
    "snapfusion": Layouts(SNAPFUSION_UNET, SD15_TEXT_ENCODER, SNAPFUSION_AUTOENCODER),
    "sdxl": _xl(SDXL_UNET),
    "ssd-1b": _xl(SSD1B_UNET),
}


def named_layout(text: str) -> Checkpoint | None:
    """The checkpoint without weights that a user means by `text`: "sd15", or "layout:sd15" for the layout in any case.

    None where it names no layout. Raises `UsageError` for a layout that is also a path here, and for `layout:` before
    what is none.
    """
    name = text.removeprefix(LAYOUT_PREFIX)
    if name not in LAYOUTS:
        if name != text:
            raise UsageError(f"'{name}' is no layout; expected one of {', '.join(LAYOUTS)}.")
        return None
    if name == text and Path(name).exists():
        raise UsageError(
            f"'{name}' is a layout and a path here; write {LAYOUT_PREFIX}{name} for the layout, or .{os.sep}{name} for "
            "the path."
        )
    return unwritten_checkpoint(name, *LAYOUTS[name])


def unwritten_checkpoint(
    name: str,
    unet: UNetLayout,
    text_encoder: TextEncoderLayout,
    autoencoder: AutoencoderLayout,
    latent_size: tuple[int, int] = SD15_LATENT_SIZE,
    text_encoder_2: TextEncoderLayout | None = None,
) -> Checkpoint:
    """A text-to-image checkpoint of these layouts, with Stable Diffusion's constants. Its weights can't be read."""
    layouts = (text_encoder,) if text_encoder_2 is None else (text_encoder, text_encoder_2)
    pipeline_class = "StableDiffusionPipeline" if text_encoder_2 is None else "StableDiffusionXLPipeline"
    kind = PIPELINES[pipeline_class]
    texts = tuple(_text_part(name, *pair) for pair in zip(kind.texts, layouts, strict=True))
    conditions: tuple[ConditionRecord, ...] = kind.texts
    pooled = None if text_encoder_2 is None else text_encoder_2.projection
    if pooled is not None and unet.added_embedding_dim is not None:
        dimension = (unet.added_embedding_dim - pooled) // SIZES
        component = kind.texts[-1].component
        conditions += (AddedEmbeddingCondition(component=component, pooled=pooled, dimension=dimension),)
    components = (*(part.component for part in texts), *TEXT_TO_IMAGE[1:])
    return Checkpoint(
        root=Path(name),
        name=name,
        texts=texts,
        unet_layout=unet,
        autoencoder_layout=autoencoder,
        sampler=SD15_SCHEDULER,
        time_embedding=TimeEmbeddingRecord(dimension=unet.down[0].channels),
        latent_size=latent_size,
        description=Description(
            pipeline_class=pipeline_class,
            family=kind.family,
            task=kind.task,
            components=components,
            conditions=conditions,
            default_steps=kind.steps or DEFAULT_STEPS,
            guidance_scale=kind.guidance_scale or DEFAULT_GUIDANCE_SCALE,
            notes=(),
        ),
        licence="",
        parts=components,
        source=Source(name),
    )


def _text_part(name: str, condition: TextCondition, layout: TextEncoderLayout) -> TextPart:
    # One whose states come before its last layer is stored with that layer and the norm behind it.
    total = layout.layers if layout.final_norm or layout.projection is not None else layout.layers + 1
    last = layout.vocabulary - 1
    return TextPart(
        component=condition.component,
        layout=layout,
        stored=replace(layout, layers=total, state_layers=None, final_norm=True),
        positions=layout.max_length,
        tokenizer_name=condition.tokenizer,
        tokenizer_dir=Path(name),
        tokenizer=TokenizerConstants(layout.vocabulary, layout.max_length, last - 1, last, last),
    )
