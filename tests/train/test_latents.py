"""The latent pool gives every row once a pass, in an order that depends on the seed and the counter alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.errors import ArtifactError
from sfmobile.train.latents import LatentPool
from sfmobile.train.state import save_tensors


def pool(rows: int) -> LatentPool:
    latents = torch.arange(rows).reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2).half()
    return LatentPool(latents.contiguous(), torch.arange(rows)[:, None].int().expand(-1, 3), torch.zeros(3).int())


@settings(deadline=None)
@given(rows=st.integers(1, 20), batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_every_row_comes_once_a_pass(rows, batch_size, seed):
    made = pool(rows)
    batches = -(-3 * rows // batch_size)
    drawn = torch.cat([made.batch(index, batch_size, seed)[1][:, 0] for index in range(batches)])
    for turn in range(len(drawn) // rows):
        assert sorted(drawn[turn * rows : (turn + 1) * rows].tolist()) == list(range(rows))


@settings(deadline=None)
@given(index=st.integers(0, 200), seed=st.integers(0, 99))
def test_a_batch_depends_on_its_number_alone(index, seed):
    first, second = pool(13), pool(13)
    second.batch(7, 5, seed)
    assert torch.equal(first.batch(index, 5, seed)[0], second.batch(index, 5, seed)[0])


def test_latents_and_captions_stay_together(tmp_path):
    save_tensors(tmp_path / "pool.safetensors", pool(9).tensors())
    latents, ids = LatentPool.load(tmp_path / "pool.safetensors", torch.device("cpu")).batch(0, 9, 0)
    assert latents.dtype == torch.float32
    assert torch.equal(latents[:, 0, 0, 0].long(), ids[:, 0])


def test_another_file_is_refused(tmp_path):
    save_tensors(tmp_path / "pool.safetensors", {"latents": torch.zeros(1)})
    with pytest.raises(ArtifactError, match="expected a latent pool"):
        LatentPool.load(tmp_path / "pool.safetensors", torch.device("cpu"))
