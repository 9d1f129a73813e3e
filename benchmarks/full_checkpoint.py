"""A random checkpoint of full Stable Diffusion 1.5 size, made once and kept."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from sfmobile.checkpoint.synthetic import write_synthetic_checkpoint
from sfmobile.nets.layout import SD15_AUTOENCODER, SD15_TEXT_ENCODER, SD15_UNET

CACHE = Path(tempfile.gettempdir()) / "sfmobile-benchmarks"
TOKENIZER = Path(__file__).parents[1] / "models" / "glyph" / "tokenizer"


def full_checkpoint(cache: Path = CACHE) -> Path:
    """Directory of the checkpoint: fp16, norms' affine parameters random too. Needs 2.1 GB of disk."""
    root = cache / "sd15"
    if not root.exists():
        print(f"Making a random checkpoint of Stable Diffusion 1.5's size in {root}", file=sys.stderr)
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cache)) / "sd15"
        write_synthetic_checkpoint(
            partial,
            unet_layout=SD15_UNET,
            text_encoder_layout=SD15_TEXT_ENCODER,
            autoencoder_layout=SD15_AUTOENCODER,
            tokenizer_dir=TOKENIZER,
        )
        partial.replace(root)
        partial.parent.rmdir()
    return root
