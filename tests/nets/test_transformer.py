from __future__ import annotations

import torch

from sfmobile.nets.transformer import CrossAttentionBlock
from tests.nets.oracles import randomise, seeded


def test_gate_zero_is_the_identity_and_gate_one_is_no_gate() -> None:
    block = CrossAttentionBlock(16, heads=2, context_channels=6, groups=8)
    randomise(block)
    x, context = seeded(2, 16, 3, 5), seeded(2, 6, 1, 7, seed=1)
    assert torch.equal(block(x, context, torch.zeros(1)), x)
    assert torch.equal(block(x, context, torch.ones(1)), block(x, context))
    assert not torch.equal(block(x, context), x)
