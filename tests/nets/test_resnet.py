from __future__ import annotations

import pytest
import torch

from sfmobile.nets.resnet import Downsample, ResnetBlock, Upsample
from tests.nets.oracles import randomise, seeded


@pytest.mark.parametrize("out_channels", [16, 24])
def test_gate_zero_leaves_only_the_shortcut(out_channels: int) -> None:
    block = ResnetBlock(16, out_channels, groups=8, time_channels=12)
    randomise(block)
    x, time = seeded(2, 16, 4, 6), seeded(2, 12, 1, 1, seed=1)
    shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
    assert torch.equal(block(x, time, torch.zeros(1)), shortcut)
    assert torch.equal(block(x, time, torch.ones(1)), block(x, time))
    assert not torch.equal(block(x, time), shortcut)


def test_the_autoencoders_downsampling_pads_right_and_bottom_only() -> None:
    layer = Downsample(1, asymmetric=True)
    torch.nn.init.ones_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    out = layer(torch.ones(1, 1, 4, 4))
    assert out.tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]


def test_upsampling_repeats_pixels() -> None:
    layer = Upsample(1)
    torch.nn.init.zeros_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    layer.conv.weight.data[0, 0, 1, 1] = 1.0
    out = layer(torch.tensor([[[[1.0, 2.0]]]]))
    assert out.tolist() == [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
