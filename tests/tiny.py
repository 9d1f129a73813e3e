"""Tiny random models: a few thousand weights, every code path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sfmobile.nets.layout import AutoencoderLayout, Stage, TextEncoderLayout, UNetLayout

REPOSITORY = Path(__file__).parent.parent
TOKENIZER_DIR = REPOSITORY / "models" / "glyph" / "tokenizer"

# A layout that diffusers can express: SD-1.5's shape with two resolutions.
TINY_UNET = UNetLayout(
    name="tiny",
    down=(Stage(32, 1, 1), Stage(64, 1, 0)),
    mid=Stage(64, 2, 1),
    up=(Stage(64, 2, 0), Stage(32, 2, 2)),
    cross_attention_dim=32,
    heads=(2, 4),
    norm_groups=8,
)
# Every kind of block, and no more attention than shows it: for what takes long to convert.
SMALLEST_UNET = replace(
    TINY_UNET,
    name="smallest",
    down=(Stage(32, 1, 0), Stage(64, 1, 1)),
    mid=Stage(64, 1, 1),
    up=(Stage(64, 2, 0), Stage(32, 2, 0)),
)
# One that it can't: SnapFusion's shape, with more attentions than ResNets and a stage without attention.
TINY_SNAPFUSION_UNET = replace(
    TINY_UNET,
    name="tiny-snapfusion",
    down=(Stage(32, 2, 0), Stage(64, 1, 2)),
    mid=Stage(64, 1, 1),
    up=(Stage(64, 2, 5), Stage(32, 3, 0)),
)
# CLIP's own vocabulary would be most of the weights; this one fits the byte-level tokenizer.
TINY_TEXT_ENCODER = TextEncoderLayout(hidden=32, layers=2, heads=2, intermediate=64, vocabulary=600)
TINY_AUTOENCODER = AutoencoderLayout(
    "tiny", decoder_channels=(16, 32), encoder_channels=(16, 32), layers_per_block=1, norm_groups=8
)
# Halves of different widths, as SnapFusion has them.
TINY_ASYMMETRIC_AUTOENCODER = replace(TINY_AUTOENCODER, name="tiny-asymmetric", decoder_channels=(8, 16))
# Stable Diffusion XL's kind: deeper transformers at the lower resolution alone, two text encoders whose states are
# joined, and 24 channels of pooled text beside six sizes of 8 values.
TINY_XL_UNET = UNetLayout(
    name="tiny-xl",
    down=(Stage(32, 1, 0), Stage(64, 1, 1, (2,))),
    mid=Stage(64, 2, 1, (2,)),
    up=(Stage(64, 2, 2, (2, 2)), Stage(32, 2, 0)),
    cross_attention_dim=48,
    heads=(2, 4),
    norm_groups=8,
    added_embedding_dim=72,
)
TINY_XL_TEXT_ENCODER = replace(TINY_TEXT_ENCODER, final_norm=False)
TINY_XL_TEXT_ENCODER_2 = replace(
    TINY_TEXT_ENCODER,
    hidden=16,
    heads=1,
    layers=3,
    activation="gelu",
    state_layers=2,
    final_norm=False,
    projection=24,
    end_token=TINY_TEXT_ENCODER.vocabulary - 1,
)
TINY_LATENT_SIZE = (8, 8)
