"""Noise from a seed, the same numbers as torch's CPU generator gives to diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfmobile.errors import UsageError

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**64 - 1


class Noise:
    """The one source of a run's random numbers: draws follow each other, the initial latents first.

    torch's CPU generator (Mersenne Twister and Box-Muller), which Swift has bit for bit (`TorchGenerator`). As
    everywhere in torch, only the seed's lower 32 bits count.
    """

    def __init__(self, seed: int) -> None:
        """Raises `UsageError` for a seed outside 0 to 2^64 - 1."""
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(f"The seed {seed} is outside 0 to {MAX_SEED}; choose one inside.")
        self.seed = seed
        self._generator: torch.Generator | None = None

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next standard normal values, float32 of `shape`."""
        import torch

        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(shape, generator=self._generator, dtype=torch.float32).numpy()


def initial_latents(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The first draw of `Noise`: standard normal float32 of `shape`. Raises `UsageError` for a seed out of range."""
    return Noise(seed).normal(shape)
