"""A checkpoint that isn't there yet: a layout's shapes without weights, for what depends on shapes alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE, TextCondition
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.checkpoint.description import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS, Description
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.source import Source
from sfmobile.checkpoint.text import TextPart
from sfmobile.checkpoint.tokenizer import TokenizerConstants
from sfmobile.errors import UsageError
from sfmobile.nets.layout import (
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    SNAPFUSION_AUTOENCODER,
    SNAPFUSION_UNET,
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
# Pipelines that are known by a name: their UNet, text encoder and autoencoder.
LAYOUTS: dict[str, tuple[UNetLayout, TextEncoderLayout, AutoencoderLayout]] = {
    "sd15": (SD15_UNET, SD15_TEXT_ENCODER, SD15_AUTOENCODER),
    "sd21": (_SD21_UNET, _SD21_TEXT_ENCODER, SD15_AUTOENCODER),
    "snapfusion": (SNAPFUSION_UNET, SD15_TEXT_ENCODER, SNAPFUSION_AUTOENCODER),
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
) -> Checkpoint:
    """A text-to-image checkpoint of these layouts, with Stable Diffusion's constants. Its weights can't be read."""
    last = text_encoder.vocabulary - 1
    return Checkpoint(
        root=Path(name),
        name=name,
        texts=(
            TextPart(
                component="text_encoder",
                layout=text_encoder,
                stored=text_encoder,
                positions=text_encoder.max_length,
                tokenizer_name="tokenizer",
                tokenizer_dir=Path(name),
                tokenizer=TokenizerConstants(text_encoder.vocabulary, text_encoder.max_length, last - 1, last, last),
            ),
        ),
        unet_layout=unet,
        autoencoder_layout=autoencoder,
        sampler=SD15_SCHEDULER,
        time_embedding=TimeEmbeddingRecord(dimension=unet.down[0].channels),
        latent_size=latent_size,
        description=Description(
            pipeline_class="StableDiffusionPipeline",
            family="stable-diffusion",
            task="text-to-image",
            components=TEXT_TO_IMAGE,
            conditions=(TextCondition(),),
            default_steps=DEFAULT_STEPS,
            guidance_scale=DEFAULT_GUIDANCE_SCALE,
            notes=(),
        ),
        licence="",
        parts=TEXT_TO_IMAGE,
        source=Source(name),
    )
