"""The latent pool: compositions encoded once, captions tokenised once, drawn by counter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfmobile.errors import ArtifactError
from sfmobile.train.randomness import generator_for
from sfmobile.train.state import load_tensors


@dataclass
class LatentPool:
    """latents (N, 4, h, w) fp16, scaled; input_ids (N, 77) int32; empty_ids (77,), the empty prompt's tokens."""

    latents: Tensor
    input_ids: Tensor
    empty_ids: Tensor

    def __len__(self) -> int:
        return self.latents.shape[0]

    def batch(self, index: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Batch `index` of an endless sequence of shuffled passes; float32 latents and ids on the pool's device.

        Each pass permutes the pool anew; the permutation depends on (seed, pass) alone.
        """
        first = index * batch_size
        rows = []
        while batch_size > 0:
            turn, offset = divmod(first, len(self))
            take = min(batch_size, len(self) - offset)
            rows.append(self._permutation(turn, seed)[offset : offset + take])
            first, batch_size = first + take, batch_size - take
        chosen = torch.cat(rows)
        return self.latents[chosen].float(), self.input_ids[chosen].long()

    def _permutation(self, turn: int, seed: int) -> Tensor:
        key = (turn, seed)
        if getattr(self, "_key", None) != key:
            generator = generator_for(torch.device("cpu"), "pool", seed, turn)
            self._order = torch.randperm(len(self), generator=generator).to(self.latents.device)
            self._key = key
        return self._order

    def to(self, device: torch.device) -> LatentPool:
        """The same pool on `device`."""
        return LatentPool(self.latents.to(device), self.input_ids.to(device), self.empty_ids.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What `load` reads back, by name."""
        return {"latents": self.latents, "input_ids": self.input_ids, "empty_ids": self.empty_ids}

    @classmethod
    def load(cls, path: Path, device: torch.device) -> LatentPool:
        """The pool in a safetensors file of its `tensors`."""
        tensors, _ = load_tensors(path)
        try:
            pool = cls(**{key: tensors[key].to(device) for key in ("latents", "input_ids", "empty_ids")})
        except KeyError as error:
            raise ArtifactError(
                f"{path}: expected a latent pool, found a file without {error}; build it again."
            ) from error
        shapes = [tuple(tensor.shape) for tensor in (pool.latents, pool.input_ids, pool.empty_ids)]
        latents, ids, empty = shapes
        # As many of both, and at least one; the tokens of a caption are as many as those of none.
        if (len(latents), len(ids), len(empty)) != (4, 2, 1) or 0 in (*latents, *ids) or latents[0] != ids[0]:
            raise ArtifactError(
                f"{path}: expected latents with their token ids, found shapes {shapes}; build it again."
            )
        if ids[1:] != empty or pool.input_ids.is_floating_point() or not pool.latents.is_floating_point():
            raise ArtifactError(f"{path}: expected latents with their token ids, found {shapes}; build it again.")
        return pool
