from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.errors import UsageError
from sfmobile.sampling.time_embedding import sinusoid


@given(
    timesteps=st.lists(st.integers(0, 999), min_size=1, max_size=4),
    half=st.integers(1, 200),
    flip=st.booleans(),
    shift=st.sampled_from([0.0, 0.5]),
)
@settings(deadline=None, max_examples=80)
def test_matches_diffusers(timesteps: list[int], half: int, flip: bool, shift: float) -> None:
    record = TimeEmbeddingRecord(dimension=2 * half, flip_sin_to_cos=flip, frequency_shift=shift)
    expected = get_timestep_embedding(
        torch.tensor(timesteps), 2 * half, flip_sin_to_cos=flip, downscale_freq_shift=shift
    ).numpy()
    found = sinusoid(timesteps, record)
    assert (found.shape, found.dtype) == ((len(timesteps), 2 * half, 1, 1), np.float32)
    # An angle of 999 in fp32 is known to 6e-5, and so is its sine; torch's own exp is off by one bit here and there.
    np.testing.assert_allclose(found[:, :, 0, 0], expected, rtol=0, atol=1.3e-4)


def test_every_training_timestep_of_sd15_is_within_one_rounding_of_the_exact_value() -> None:
    found = sinusoid(np.arange(1000), TimeEmbeddingRecord(dimension=320))[:, :, 0, 0].astype(np.float64)
    angles = np.arange(1000)[:, None] * 10000.0 ** (-np.arange(160) / 160)
    exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert np.abs(found - exact).max() < 1.3e-4


def test_an_odd_dimension_is_refused() -> None:
    with pytest.raises(UsageError, match="has no two halves"):
        sinusoid([1], TimeEmbeddingRecord(dimension=7))
