"""Layouts are changed block by block; what stays keeps its weights and what it computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfmobile.errors import UsageError
from sfmobile.nets.layout import GLYPH_TEACHER_UNET, Stage
from sfmobile.nets.unet import UNet
from sfmobile.train.evolve.mutation import Action, actions, apply, mutate, with_stages
from tests.tiny import TINY_UNET

LAYOUT = replace(
    TINY_UNET,
    down=(Stage(32, 2, 1), Stage(64, 2, 2)),
    mid=Stage(64, 2, 1),
    up=(Stage(64, 3, 2), Stage(32, 3, 1)),
)


def gates_without(layout, blocks):
    return torch.tensor([0.0 if name in blocks else 1.0 for name in layout.block_names()])


def run(unet: UNet, gates: torch.Tensor | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    time = torch.randn(2, 32, 1, 1, generator=generator)
    context = torch.randn(2, 32, 1, 7, generator=generator)
    with torch.no_grad():
        return unet(latents, time, context, gates=gates)


@pytest.mark.parametrize("action", actions(LAYOUT), ids=str)
def test_every_action_gives_a_network_that_runs(action):
    torch.manual_seed(0)
    assert run(mutate(UNet(LAYOUT), action)).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("layout", [LAYOUT, GLYPH_TEACHER_UNET], ids=lambda layout: layout.name)
def test_every_removal_has_fewer_parameters_and_every_copy_more(layout):
    def count(made):
        with torch.device("meta"):
            return sum(p.numel() for p in UNet(made).parameters())

    whole = count(layout)
    chosen = actions(layout)[::7]
    for action in chosen:
        assert (count(apply(layout, action)) < whole) == (action.kind == "remove"), action


def test_removing_an_attention_equals_closing_its_gate_where_order_stays():
    torch.manual_seed(0)
    unet = UNet(LAYOUT)
    for block in ("down_blocks.0.attentions.0", "mid_block.attentions.0", "down_blocks.1.attentions.1"):
        removed = mutate(unet, Action("remove", (block,)))
        torch.testing.assert_close(run(removed), run(unet, gates_without(LAYOUT, (block,))))


def test_removing_a_mid_resnet_equals_closing_its_gate():
    torch.manual_seed(0)
    unet = UNet(LAYOUT)
    block = "mid_block.resnets.1"
    torch.testing.assert_close(
        run(mutate(unet, Action("remove", (block,)))), run(unet, gates_without(LAYOUT, (block,)))
    )


PAIR = ("down_blocks.1.resnets.1", "up_blocks.0.resnets.1")


@pytest.mark.parametrize("blocks", [("mid_block.attentions.0",), ("mid_block.resnets.1",), PAIR], ids=" + ".join)
def test_a_copy_starts_close_to_the_network_it_came_from(blocks):
    torch.manual_seed(0)
    unet = UNet(LAYOUT)
    before = run(unet)
    copied = run(mutate(unet, Action("copy", blocks)))
    removed = run(mutate(unet, Action("remove", blocks)))
    assert (copied - before).norm() < (removed - before).norm()


def test_a_copy_removed_again_leaves_the_layout_as_it_was():
    for action in actions(LAYOUT):
        if action.kind == "copy":
            assert apply(apply(LAYOUT, action), Action("remove", action.blocks)) == LAYOUT


def test_a_layout_that_breaks_its_skip_connections_names_the_stage():
    with pytest.raises(UsageError, match="up stage 1 doesn't close its skip connections"):
        with_stages(LAYOUT, {"down_blocks.0": Stage(32, 1, 1)})
    with pytest.raises(UsageError, match=r"has no block 'mid_block.attentions.5'"):
        apply(LAYOUT, Action("remove", ("mid_block.attentions.5",)))
