from __future__ import annotations

import torch

from sfmobile.evaluate.metrics.memorisation import as_bytes, as_float, nearest_training
from tests.evaluate.tiny_sprites import PixelDistance, PixelFeatures

PICTURES = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_copy_is_found_at_distance_zero_and_a_near_copy_nearby() -> None:
    order = torch.randperm(30)
    copies = PICTURES[order].clone()
    copies[10:] += 0.02
    found = nearest_training(copies, PICTURES, PixelFeatures(), PixelDistance(), candidates=4, batch=7)
    assert torch.equal(found.row, order)
    assert found.distance[:10].max() == 0
    torch.testing.assert_close(found.distance[10:], torch.full((20,), 0.02), rtol=1e-3, atol=1e-5)


def test_with_all_as_candidates_it_is_the_true_nearest_and_with_fewer_never_below() -> None:
    made = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact = torch.stack([(made[:, None] - PICTURES[None]).abs().mean((2, 3, 4))]).squeeze(0).min(dim=1)
    whole = nearest_training(made, PICTURES, PixelFeatures(), PixelDistance(), candidates=99)
    torch.testing.assert_close(whole.distance, exact.values)
    few = nearest_training(made, PICTURES, PixelFeatures(), PixelDistance(), candidates=2)
    assert (few.distance >= whole.distance - 1e-6).all()


def test_bytes_and_floats_hold_the_same_picture() -> None:
    torch.testing.assert_close(as_float(as_bytes(PICTURES)), PICTURES, rtol=0, atol=1 / 255)
    assert torch.equal(as_bytes(as_float(as_bytes(PICTURES))), as_bytes(PICTURES))
    assert as_bytes(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]
