"""Agreement of pictures and texts in a shared embedding space, and how well that space retrieves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Retrieval:
    """Share of pictures whose own text is among the k nearest of all candidate texts (R@k), and the agreement.

    candidates: how many different texts compete; agreement: mean cosine of each picture with its own text;
    mismatch: mean cosine with the other texts, the level that chance reaches.
    """

    pairs: int
    candidates: int
    recall_at_1: float
    recall_at_5: float
    agreement: float
    mismatch: float


def retrieval(images: Tensor, texts: Tensor, own: Tensor) -> Retrieval:
    """images (N, D) and candidate texts (M, D), unit rows; own (N,) the index of each picture's text."""
    if len(images) != len(own) or len(images) == 0:
        raise ValueError(f"expected one text index per picture, found {len(own)} for {len(images)} pictures")
    similarity = images.float() @ texts.float().T
    rows = torch.arange(len(own), device=own.device)
    mine = similarity[rows, own]
    # Ties count against the picture, so that a collapsed encoder, to which all is equal, retrieves nothing.
    rank = (similarity >= mine[:, None]).sum(dim=1) - 1
    others = (similarity.sum() - mine.sum()) / max(similarity.numel() - len(own), 1)
    return Retrieval(
        pairs=len(images),
        candidates=len(texts),
        recall_at_1=float((rank < 1).float().mean()),
        recall_at_5=float((rank < 5).float().mean()),
        agreement=float(mine.mean()),
        mismatch=float(others),
    )


def distinct_texts(input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Different rows of token ids (N, S), and for each of the N the index of its row among them."""
    rows, own = torch.unique(input_ids, dim=0, return_inverse=True)
    return rows, own
