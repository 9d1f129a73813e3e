"""Attention as one op against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)
Q, K, V = (RANDOM.normal(size=size).astype(np.float32) for size in ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)))
FLOAT_MASK = RANDOM.normal(size=(5, 7)).astype(np.float32)
BOOL_MASK = RANDOM.random((1, 3, 5, 7)) > 0.3


def formula(mask: torch.Tensor) -> torch.Tensor:
    q, k, v = map(torch.from_numpy, (Q, K, V))
    return (q @ k.transpose(-1, -2) / 8**0.5 + mask).softmax(-1) @ v


def test_scaled_dot_product_attention_without_mask() -> None:
    body = lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v)  # noqa: E731
    assert_matches(body, formula(torch.zeros(())), Q, K, V, target="ios18")


@pytest.mark.parametrize("mask", [FLOAT_MASK, BOOL_MASK], ids=["float", "bool"])
def test_scaled_dot_product_attention_adds_floats_and_excludes_false(mask: np.ndarray) -> None:
    wanted = torch.from_numpy(mask)
    if mask.dtype == np.bool_:
        wanted = torch.zeros(mask.shape).masked_fill(~wanted, -torch.inf)
    body = lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m)  # noqa: E731
    assert_matches(body, formula(wanted), Q, K, V, mask, target="ios18")
