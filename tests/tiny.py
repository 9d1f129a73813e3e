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
TINY_LATENT_SIZE = (8, 8)
