from __future__ import annotations

import torch

from sfmobile.nets.norm import ChannelLayerNorm
from tests.nets.oracles import agreement_db, randomise, seeded


def test_it_is_torchs_layer_norm_exported_too_as_one_operation() -> None:
    norm = ChannelLayerNorm(24)
    randomise(norm)
    x = 3 + 2 * seeded(2, 24, 1, 9)
    expected = torch.nn.functional.layer_norm(x.movedim(1, -1), (24,), norm.weight, norm.bias, norm.eps)
    exported = torch.export.export(norm, (x,))
    assert agreement_db(expected.movedim(-1, 1), norm(x)) >= 120
    assert agreement_db(expected.movedim(-1, 1), exported.module()(x)) >= 120
    operations = {str(node.target) for node in exported.graph.nodes}
    assert any("layer_norm" in name for name in operations)
    assert not any("rsqrt" in name or "mul" in name for name in operations)
