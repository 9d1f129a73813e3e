from __future__ import annotations

import torch

from sfmobile.nets.norm import ChannelLayerNorm
from tests.nets.oracles import agreement_db, randomise, seeded


def test_the_exported_spelling_computes_torchs_layer_norm() -> None:
    norm = ChannelLayerNorm(24)
    randomise(norm)
    x = 3 + 2 * seeded(2, 24, 1, 9)
    expected = torch.nn.functional.layer_norm(x.movedim(1, -1), (24,), norm.weight, norm.bias, norm.eps)
    exported = torch.export.export(norm, (x,))
    assert agreement_db(expected.movedim(-1, 1), norm(x)) >= 120
    assert agreement_db(expected.movedim(-1, 1), exported.module()(x)) >= 120
    operations = {str(node.target) for node in exported.graph.nodes}
    assert not any("permute" in name or "layer_norm" in name for name in operations)
