"""A supernet is deeper than the network it grew from, and starts out computing the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfmobile.errors import UsageError
from sfmobile.nets.layout import Stage
from sfmobile.nets.unet import UNet
from sfmobile.train.evolve.supernet import BlockCounts, expand, with_counts
from tests.tiny import TINY_UNET
from tests.train.evolve.test_mutation import run

SMALL = replace(
    TINY_UNET,
    down=(Stage(32, 1, 1), Stage(64, 1, 1)),
    mid=Stage(64, 1, 1),
    up=(Stage(64, 2, 1), Stage(32, 2, 1)),
)
COUNTS = BlockCounts(down=((2, 2), (3, 2)), mid=(2, 2), up=((4, 2), (3, 2)))


def trained() -> UNet:
    """Random weights with every norm's own scale and shift."""
    torch.manual_seed(0)
    unet = UNet(SMALL)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return unet


def test_a_supernet_starts_near_what_it_grew_from():
    unet = trained()
    layout = with_counts(SMALL, COUNTS, "supernet")
    torch.manual_seed(1)
    grown, fresh = expand(unet, layout), UNet(layout)
    expected = run(unet)
    assert grown.layout.block_names() == layout.block_names()
    assert (run(grown) - expected).norm() < 0.3 * (run(fresh) - expected).norm()


def test_blocks_that_start_as_the_identity_change_nothing():
    unet = trained()
    # Behind a ResNet that changes the width there is none to copy.
    grown = expand(unet, with_counts(SMALL, BlockCounts(((1, 1), (2, 1)), (1, 1), ((3, 1), (2, 1))), "supernet"))
    torch.testing.assert_close(run(grown), run(unet))


def test_the_same_counts_give_the_same_network():
    unet = trained()
    own = BlockCounts(((1, 1), (1, 1)), (1, 1), ((2, 1), (2, 1)))
    assert torch.equal(run(expand(unet, with_counts(SMALL, own, "same"))), run(unet))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (BlockCounts(((2, 2), (2, 2)), (1, 1), ((3, 1), (2, 1))), "up stage 1 doesn't close its skip connections"),
        (BlockCounts(((2, 2),), (1, 1), ((3, 1), (2, 1))), "expected counts of 2 down stages, found 1"),
    ],
    ids=["skips", "stages"],
)
def test_counts_that_make_no_network_name_the_stage(counts, words):
    with pytest.raises(UsageError, match=words):
        with_counts(SMALL, counts, "supernet")


def test_a_supernet_with_fewer_blocks_is_refused():
    fewer = with_counts(SMALL, BlockCounts(((1, 1), (1, 1)), (1, 0), ((2, 1), (2, 1))), "fewer")
    with pytest.raises(UsageError, match="mid_block has 0 attentions, fewer than the 1"):
        expand(UNet(SMALL), fewer)
