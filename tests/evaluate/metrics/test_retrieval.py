from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sfmobile.evaluate.metrics.retrieval import distinct_texts, retrieval


def unit(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_recall_is_the_rank_of_the_own_text() -> None:
    texts = torch.eye(8)
    # Row i is nearest to text i + 1, next to its own.
    images = functional.normalize(torch.eye(8) + 1.5 * torch.roll(torch.eye(8), 1, dims=1), dim=1)
    found = retrieval(images, texts, torch.arange(8))
    assert (found.recall_at_1, found.recall_at_5) == (0.0, 1.0)
    assert retrieval(texts, texts, torch.arange(8)).recall_at_1 == 1.0


def test_agreement_is_the_mean_cosine_and_mismatch_that_of_all_others() -> None:
    images, texts = unit(5, 16), unit(7, 16)
    own = torch.tensor([0, 1, 2, 3, 3])
    found = retrieval(images, texts, own)
    cosine = images @ texts.T
    mine = torch.stack([cosine[i, j] for i, j in enumerate(own)])
    assert found.agreement == pytest.approx(mine.mean().item(), abs=1e-6)
    others = [cosine[i, j].item() for i in range(5) for j in range(7) if j != own[i]]
    assert found.mismatch == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_a_collapsed_encoder_retrieves_nothing() -> None:
    same = unit(1, 16).expand(20, -1)
    assert retrieval(same, same, torch.arange(20)).recall_at_5 == 0.0


def test_equal_captions_are_one_candidate() -> None:
    ids = torch.tensor([[3, 1], [2, 2], [3, 1]])
    texts, own = distinct_texts(ids)
    assert texts.shape == (2, 2)
    assert torch.equal(texts[own], ids)


def test_pictures_without_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="one text index per picture"):
        retrieval(unit(3, 4), unit(3, 4), torch.arange(2))
