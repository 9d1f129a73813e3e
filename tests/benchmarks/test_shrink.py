"""The other ways to a latency: blocks gone at random, or every stage narrower."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.shrink import narrow, random_removal, removals_to, uniform_shrinking
from sfmobile.errors import UsageError
from sfmobile.nets.layout import GLYPH_UNET, SD15_UNET, Stage
from sfmobile.nets.unet import UNet
from sfmobile.train.evolve.mutation import apply, stages
from tests.tiny import TINY_UNET

LAYOUT = replace(
    TINY_UNET,
    down=(Stage(32, 2, 2), Stage(64, 2, 2)),
    mid=Stage(64, 2, 1),
    up=(Stage(64, 3, 2), Stage(32, 3, 1)),
)


def by_blocks(layout):
    return float(sum(stage.resnets + stage.attentions for stage in stages(layout).values()))


def by_width(layout):
    return float(sum(stage.channels for stage in stages(layout).values()))


def test_blocks_go_at_random_until_the_target_is_met():
    whole = by_blocks(LAYOUT)
    removed = random_removal(LAYOUT, by_blocks, whole - 6, seed=1)
    left = LAYOUT
    for action in removed:
        assert by_blocks(left) > whole - 6
        left = apply(left, action)
    assert by_blocks(left) <= whole - 6
    assert removed == random_removal(LAYOUT, by_blocks, whole - 6, seed=1)
    assert removed != random_removal(LAYOUT, by_blocks, whole - 6, seed=2)
    with pytest.raises(UsageError, match="can't be reached by removing blocks"):
        random_removal(LAYOUT, by_blocks, 1.0, seed=1)


def test_removals_lead_to_a_layout_with_fewer_blocks():
    fewer = replace(
        LAYOUT,
        name="fewer",
        down=(Stage(32, 1, 0), Stage(64, 2, 1)),
        mid=Stage(64, 1, 1),
        up=(Stage(64, 3, 2), Stage(32, 2, 0)),
    )
    left = LAYOUT
    for action in removals_to(LAYOUT, fewer):
        left = apply(left, action)
    assert stages(left) == stages(fewer)
    assert removals_to(LAYOUT, LAYOUT) == []
    with pytest.raises(UsageError, match=r"down_blocks\.0 stays different"):
        removals_to(fewer, LAYOUT)


def test_shrinking_keeps_blocks_and_head_widths():
    narrower = uniform_shrinking(LAYOUT, by_width, 200.0)
    assert by_width(narrower) <= 200.0
    assert [s.channels // h for s, h in zip(narrower.down, narrower.heads, strict=True)] == [16, 16]
    assert by_blocks(narrower) == by_blocks(LAYOUT)
    with pytest.raises(UsageError, match="can't be reached by narrowing"):
        uniform_shrinking(LAYOUT, by_width, 1.0)


def test_shrinking_takes_the_widest_that_fits():
    # Widths of 0.83: 270 of 320 and 540 of 640, to the nearest whole head and group.
    narrower = uniform_shrinking(SD15_UNET, by_width, by_width(SD15_UNET) * 0.9)
    assert 0.8 * by_width(SD15_UNET) < by_width(narrower) <= 0.9 * by_width(SD15_UNET)


def test_a_narrowed_network_keeps_the_leading_channels_of_what_each_layer_takes():
    torch.manual_seed(0)
    unet = UNet(LAYOUT)
    narrower = uniform_shrinking(LAYOUT, by_width, 200.0)
    kept = narrow(unet, narrower).state_dict()
    source = unet.state_dict()
    first, last = narrower.down[0].channels, narrower.down[1].channels
    assert torch.equal(kept["conv_in.weight"], source["conv_in.weight"][:first])
    # The first ResNet of the second up stage takes a state of the lowest resolution and a skip connection.
    joined = source["up_blocks.1.resnets.0.conv1.weight"][:first]
    expected = torch.cat([joined[:, :last], joined[:, 64 : 64 + first]], dim=1)
    assert torch.equal(kept["up_blocks.1.resnets.0.conv1.weight"], expected)
    # Values and gates of the gated unit are cut each.
    gated = source["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias"]
    assert torch.equal(
        kept["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias"],
        torch.cat([gated[: 4 * last], gated[256 : 256 + 4 * last]]),
    )


@pytest.mark.parametrize("layout", [LAYOUT, GLYPH_UNET], ids=lambda layout: layout.name)
def test_a_network_narrowed_to_its_own_width_is_the_same(layout):
    torch.manual_seed(0)
    unet = UNet(layout)
    same = narrow(unet, layout)
    assert all(torch.equal(same.state_dict()[key], value) for key, value in unet.state_dict().items())
