"""Textual inversion files (arXiv 2208.01618): vectors for new tokens, as diffusers and as A1111 save them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.checkpoint.safetensors_file import FLOATS, SafetensorsFile
from sfmobile.checkpoint.weights import PartName
from sfmobile.errors import ArtifactError
from sfmobile.files import sha256_of_file

if TYPE_CHECKING:
    from torch import Tensor

# A1111's name for the tensor, whose token is the file's name there.
A1111_KEY = "emb_params"
# Of a file for two text encoders: tensors in the encoders' order.
XL_KEYS = ("clip_l", "clip_g")
MOST_VECTORS = 75


@dataclass(frozen=True)
class Embedding:
    """A file's vectors (count, channels) for each text encoder, and a token for each: `<x>`, `<x>_1`, … as diffusers
    names them."""

    path: Path
    digest: str
    tokens: tuple[str, ...]
    vectors: Mapping[PartName, Tensor]


def read_embedding(path: Path, encoders: Mapping[PartName, int], token: str | None = None) -> Embedding:
    """The vectors in `path`, which must be for as many text encoders and as wide as those are (`encoders`).

    token: in place of the file's own. Raises `ArtifactError` for another kind of file, another width, or values that
    aren't finite.
    """
    file = SafetensorsFile(path, "a file of textual inversion")
    names = list(file)
    if set(XL_KEYS) & set(names):
        return _of_two(file, encoders, token)
    if len(encoders) > 1:
        raise ArtifactError(
            f"{path} holds an embedding for one text encoder and the model has {len(encoders)}; use one for Stable "
            f"Diffusion XL, with the tensors {' and '.join(XL_KEYS)}."
        )
    if len(names) != 1:
        raise ArtifactError(
            f"{path} holds {len(names)} tensors; expected the one of a textual inversion: if it is a LoRA, give it "
            "with --lora."
        )
    (name,), ((part, channels),) = names, encoders.items()
    vectors = _vectors(file, name, channels)
    first = token or (path.stem if name == A1111_KEY else name)
    return Embedding(path, sha256_of_file(path), _numbered(first, len(vectors)), {part: vectors})


def _of_two(file: SafetensorsFile, encoders: Mapping[PartName, int], token: str | None) -> Embedding:
    """Of a file for two text encoders, whose token is the file's name."""
    if len(encoders) != len(XL_KEYS):
        raise ArtifactError(
            f"{file.path} holds an embedding for the two text encoders of Stable Diffusion XL; use one for Stable "
            "Diffusion 1 or 2."
        )
    if set(file) != set(XL_KEYS):
        raise ArtifactError(
            f"{file.path} holds {', '.join(sorted(file))}; expected {' and '.join(XL_KEYS)}, for both text encoders: "
            "download it again."
        )
    found = {
        part: _vectors(file, name, channels) for name, (part, channels) in zip(XL_KEYS, encoders.items(), strict=True)
    }
    counts = {len(vectors) for vectors in found.values()}
    if len(counts) > 1:
        raise ArtifactError(
            f"{file.path} holds {' and '.join(str(len(one)) for one in found.values())} vectors for the two text "
            "encoders; expected as many for each: download it again."
        )
    return Embedding(file.path, sha256_of_file(file.path), _numbered(token or file.path.stem, counts.pop()), found)


def _numbered(first: str, count: int) -> tuple[str, ...]:
    return (first, *(f"{first}_{index}" for index in range(1, count)))


def _vectors(file: SafetensorsFile, name: str, channels: int) -> Tensor:
    """A tensor as vectors of so many channels, float32 (count, channels)."""
    import torch

    path, shape = file.path, file.shape(name)
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
    return vectors
