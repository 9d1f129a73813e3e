"""Initial latents from a seed, the same numbers as torch's CPU generator gives to diffusers."""

from __future__ import annotations

import numpy as np

from sfmobile.errors import UsageError

MAX_SEED = 2**64 - 1


def initial_latents(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 of `shape` from torch's CPU generator (Mersenne Twister and Box-Muller) at `seed`.

    As everywhere in torch, only the seed's lower 32 bits count.
    Raises `UsageError` for a seed outside 0 to 2^64 - 1.
    """
    import torch

    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"The seed {seed} is outside 0 to {MAX_SEED}; choose one inside.")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).numpy()
