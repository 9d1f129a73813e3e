"""What is laid over one opened checkpoint: LoRAs on its weights, vectors under its token table.

Weights that change are merged tensor by tensor, in float32, into a mapped file that has no name: its pages belong to
the disk, not to the process.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.overlays import EmbeddingRecord, LoraRecord, OverlayRecord
from sfmobile.checkpoint.overlays.embedding import Embedding
from sfmobile.checkpoint.overlays.lora import Lora, LoraChange
from sfmobile.checkpoint.weights import PartName
from sfmobile.errors import UnavailableError
from sfmobile.files import DISK_FULL, cache_folder

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_TABLE = "token_embedding.weight"


@dataclass(frozen=True)
class TokenTable:
    """A text encoder's table of tokens: its shape as it is stored, and the row behind which vectors are laid."""

    shape: tuple[int, ...]
    first_id: int


@dataclass(frozen=True)
class Laid:
    """loras: with what they do to each weight. embeddings: their vectors follow rows of the text encoders' tables."""

    loras: Sequence[Lora] = ()
    changes: Sequence[Mapping[PartName, Mapping[str, LoraChange]]] = ()
    embeddings: Sequence[Embedding] = ()
    tables: Mapping[PartName, TokenTable] = field(default_factory=dict)
    others: tuple[OverlayRecord, ...] = ()
    _merged: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def records(self) -> tuple[OverlayRecord, ...]:
        """All of it, for a manifest."""
        loras = (LoraRecord(path=str(one.path), sha256=one.digest, scale=one.scale) for one in self.loras)
        embeddings = (
            EmbeddingRecord(path=str(one.path), sha256=one.digest, tokens=one.tokens) for one in self.embeddings
        )
        return (*loras, *embeddings, *self.others)

    def stored_shapes(self, part: PartName, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes of the checkpoint's own weights, given those of what lies over them."""
        longer = {TOKEN_TABLE: self.tables[part].shape} if part in self.tables else {}
        return {**shapes, **longer}

    def marks(self, part: PartName) -> list[str]:
        """What the content hash of `part` says beside its stored weights: files and scales that change it."""
        marks = [
            f"lora {lora.digest} {lora.scale!r}"
            for lora, changes in zip(self.loras, self.changes, strict=True)
            if part in changes
        ]
        if part in self.tables:
            marks += [f"embedding {one.digest} {' '.join(one.tokens)}" for one in self.embeddings]
        return marks

    def over(self, part: PartName, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`weights` of `part` with everything laid over them. Raises `ArtifactError` for a change that isn't finite."""
        if part not in self._merged:
            self._merged[part] = self._merge(part, weights)
        # Layers that are skipped may have been merged before they were.
        return {**weights, **{key: value for key, value in self._merged[part].items() if key in weights}}

    def _merge(self, part: PartName, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        made: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
        changed = [changes[part] for changes in self.changes if part in changes]
        for key in sorted({key for changes in changed for key in changes if key in weights}):
            made[key] = (tuple(weights[key].shape), partial(_sum, weights[key], changed, key))
        if part in self.tables:
            vectors = torch.cat([one.vectors[part] for one in self.embeddings])
            first_id = self.tables[part].first_id
            rows = first_id + len(vectors)

            def table() -> Tensor:
                return torch.cat([weights[TOKEN_TABLE][:first_id].float(), vectors])

            made[TOKEN_TABLE] = ((rows, vectors.shape[1]), table)
        places = mapped_tensors({key: shape for key, (shape, _) in made.items()})
        for key, (_, make) in made.items():
            places[key].copy_(make())
        return places


def _sum(weight: Tensor, changed: Sequence[Mapping[str, LoraChange]], key: str) -> Tensor:
    shape = tuple(weight.shape)
    total = weight.float()
    for changes in changed:
        if key in changes:
            total = total + changes[key].delta(shape)
    return total


def mapped_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Float32 tensors in one mapped file, without values yet. Raises `UnavailableError` if the disk is full."""
    import torch

    total = sum(math.prod(shape) for shape in shapes.values())
    if not total:
        return {}
    folder = cache_folder("merged")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            # A mapped page that finds no room on the disk later would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, 4 * total)
            storage = torch.from_file(name, shared=True, size=total, dtype=torch.float32)
        finally:
            os.close(descriptor)
            if os.name != "nt":
                Path(name).unlink()
    except OSError as error:
        why = "the disk is full" if error.errno in DISK_FULL else os.strerror(error.errno or errno.EIO).lower()
        raise UnavailableError(
            f"'{folder}' has no room for {4 * total / 1e9:.1f} GB of merged weights ({why}); free some space, or name "
            "another folder with SFMOBILE_CACHE."
        ) from error
    places: dict[str, Tensor] = {}
    start = 0
    for key, shape in shapes.items():
        count = math.prod(shape)
        places[key] = storage[start : start + count].view(shape)
        start += count
    return places
