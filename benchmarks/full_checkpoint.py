"""Random checkpoints that diffusers can load too, made once and kept."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfmobile.nets.layout import (
    GLYPH_64_AUTOENCODER,
    GLYPH_64_TEXT_ENCODER,
    GLYPH_64_UNET,
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    Stage,
)
from sfmobile.testing import write_synthetic_checkpoint

CACHE = Path(tempfile.gettempdir()) / "sfmobile-benchmarks"
TOKENIZER = Path(__file__).parents[1] / "models" / "glyph" / "tokenizer"


# The built-in model's layouts with what diffusers insists on: two ResNets in the middle, attention behind every ResNet
# on the way up, halves of one width.
SMALL_UNET = replace(GLYPH_64_UNET, mid=Stage(160, 2, 1), up=(Stage(160, 2, 2), Stage(96, 2, 2)))
SMALL_AUTOENCODER = replace(GLYPH_64_AUTOENCODER, encoder_channels=GLYPH_64_AUTOENCODER.decoder_channels)


def full_checkpoint(cache: Path = CACHE) -> Path:
    """Directory of one of full Stable Diffusion 1.5 size: fp16, norms' affine parameters random too; 2.1 GB of disk."""
    return _made_once(
        cache / "sd15",
        unet_layout=SD15_UNET,
        text_encoder_layout=SD15_TEXT_ENCODER,
        autoencoder_layout=SD15_AUTOENCODER,
    )


def small_checkpoint(cache: Path = CACHE) -> Path:
    """Directory of one of the built-in model's size."""
    return _made_once(
        cache / "small",
        unet_layout=SMALL_UNET,
        text_encoder_layout=GLYPH_64_TEXT_ENCODER,
        autoencoder_layout=SMALL_AUTOENCODER,
        latent_size=(8, 8),
    )


def _made_once(root: Path, **options: Any) -> Path:
    """The checkpoint at `root`, written beside it and renamed into place if it isn't there."""
    if not root.exists():
        print(f"Making a random checkpoint in {root}", file=sys.stderr)
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root.parent)) / root.name
        write_synthetic_checkpoint(partial, tokenizer_dir=TOKENIZER, **options)
        partial.replace(root)
        partial.parent.rmdir()
    return root
