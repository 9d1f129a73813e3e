"""Textual inversion files (arXiv 2208.01618): vectors for new tokens, as diffusers and as A1111 save them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.checkpoint.safetensors_file import FLOATS, SafetensorsFile
from sfmobile.errors import ArtifactError
from sfmobile.files import sha256_of_file

if TYPE_CHECKING:
    from torch import Tensor

# A1111's name for the tensor, whose token is the file's name there.
A1111_KEY = "emb_params"
XL_KEYS = {"clip_l", "clip_g"}
MOST_VECTORS = 75


@dataclass(frozen=True)
class Embedding:
    """A file's vectors (count, channels), and a token for each: `<x>`, `<x>_1`, … as diffusers names them."""

    path: Path
    digest: str
    tokens: tuple[str, ...]
    vectors: Tensor


def read_embedding(path: Path, channels: int, token: str | None = None) -> Embedding:
    """The vectors in `path`, which must be as wide as the text encoder (`channels`).

    token: in place of the file's own. Raises `ArtifactError` for another kind of file, another width, or values that
    aren't finite.
    """
    import torch

    file = SafetensorsFile(path, "a file of textual inversion")
    names = list(file)
    if XL_KEYS & set(names):
        raise ArtifactError(
            f"{path} holds an embedding for the two text encoders of Stable Diffusion XL; use one for Stable Diffusion "
            "1 or 2."
        )
    if len(names) != 1:
        raise ArtifactError(
            f"{path} holds {len(names)} tensors; expected the one of a textual inversion: if it is a LoRA, give it "
            "with --lora."
        )
    (name,) = names
    shape = file.shape(name)
    if file.dtype(name) not in FLOATS or len(shape) not in (1, 2) or 0 in shape:
        raise ArtifactError(
            f"{path}: '{name}' is {file.dtype(name)} of shape {shape}; expected vectors of {channels} floating-point "
            "numbers."
        )
    if shape[-1] != channels:
        raise ArtifactError(
            f"{path} holds vectors of {shape[-1]} numbers and the text encoder's tokens have {channels}; it was made "
            "for another model: use one for this."
        )
    count = shape[0] if len(shape) == 2 else 1
    if count > MOST_VECTORS:
        raise ArtifactError(
            f"{path} holds {count} vectors and a prompt has room for {MOST_VECTORS}; download it again."
        )
    vectors = file[name].float().reshape(-1, channels)
    if not bool(torch.isfinite(vectors).all()):
        raise ArtifactError(f"{path}: its vectors hold infinite values or NaN; it is damaged, download it again.")
    first = token or (path.stem if name == A1111_KEY else name)
    tokens = (first, *(f"{first}_{index}" for index in range(1, len(vectors))))
    return Embedding(path, sha256_of_file(path), tokens, vectors)
