from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from sfmobile.errors import UsageError
from sfmobile.sampling.noise import MAX_SEED, initial_latents


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 4, 8, 8), (1, 4, 1, 1)])
@pytest.mark.parametrize("seed", [0, 42, 2**32 + 5, MAX_SEED])
def test_is_what_diffusers_draws(seed: int, shape: tuple[int, ...]) -> None:
    expected = randn_tensor(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    found = initial_latents(seed, shape)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.numpy())


def test_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    initial_latents(3, (1, 4, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_the_generator_does_not_take_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match=f"The seed {seed} is outside 0 to {MAX_SEED}"):
        initial_latents(seed, (1, 4, 8, 8))
