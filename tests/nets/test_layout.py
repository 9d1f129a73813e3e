from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfmobile.errors import UsageError
from sfmobile.nets.layout import AUTOENCODER_LAYOUTS, SD15_UNET, UNET_LAYOUTS, Stage, UNetLayout, block_order
from sfmobile.nets.unet import UNet
from tests.tiny import TINY_UNET

BROKEN = {
    "an up stage without a ResNet for each skip": (
        {"up": (Stage(64, 2, 0), Stage(32, 1, 1))},
        "up stage 1 doesn't close its skip connections: expected 2 ResNets of 32 channels",
    ),
    "an up stage of another width": (
        {"up": (Stage(32, 2, 0), Stage(32, 2, 2))},
        "up stage 0 doesn't close its skip connections: expected 2 ResNets of 64 channels",
    ),
    "a missing up stage": ({"up": (Stage(64, 2, 0),)}, "expected as many up stages as down stages, found 1 and 2"),
    "a mid stage of another width": ({"mid": Stage(32, 2, 1)}, "expected the mid stage to have the 64 channels"),
    "a head count missing": ({"heads": (2,)}, r"one head count per down stage \(2\), found 1"),
    "a width no ResNet makes": (
        {"down": (Stage(32, 1, 1), Stage(64, 0, 0)), "up": (Stage(64, 1, 0), Stage(32, 2, 2))},
        "down stage 1 has no ResNet to change the width from 32 to 64",
    ),
    "channels that don't fill the groups": ({"norm_groups": 12}, "can't be split into 12 normalisation groups"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_layout_that_can_not_run_is_refused(mistake: str) -> None:
    changes, sentence = BROKEN[mistake]
    with pytest.raises(UsageError, match=sentence):
        replace(TINY_UNET, **changes)


@given(resnets=st.integers(0, 6), attentions=st.integers(0, 9))
def test_block_order_runs_each_block_once_with_attention_spread_behind_the_resnets(
    resnets: int, attentions: int
) -> None:
    order = block_order(resnets, attentions)
    assert [index for kind, index in order if kind == "resnet"] == list(range(resnets))
    assert [index for kind, index in order if kind == "attention"] == list(range(attentions))
    if resnets and order:
        assert order[0] == ("resnet", 0)
        groups = "".join(kind[0] for kind, _ in order).split("r")[1:]
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_block_order_of_stable_diffusions_mid_stage() -> None:
    assert block_order(2, 1) == (("resnet", 0), ("attention", 0), ("resnet", 1))


@pytest.mark.parametrize("layout", UNET_LAYOUTS.values(), ids=list(UNET_LAYOUTS))
def test_block_names_are_the_modules_names(layout: UNetLayout) -> None:
    with torch.device("meta"):
        modules = dict(UNet(layout).named_modules())
    names = layout.block_names()
    assert len(set(names)) == len(names)
    found = {name for name in modules if name.rpartition(".")[0].rpartition(".")[2] in ("resnets", "attentions")}
    assert set(names) == found


@pytest.mark.parametrize("size", [(0, 8), (4, 8), (12, 8), (64, 65)])
def test_a_latent_size_that_can_not_be_halved_often_enough_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="both sides must be multiples of 8 because it halves them 3 times"):
        SD15_UNET.check_latent_size(*size)


def test_the_refusal_names_a_size_that_fits() -> None:
    with pytest.raises(UsageError, match="the nearest that fits is 64x40"):
        SD15_UNET.check_latent_size(65, 42)
    SD15_UNET.check_latent_size(64, 40)


def test_known_layouts_are_filed_under_their_names() -> None:
    assert all(layout.name == name for name, layout in (UNET_LAYOUTS | AUTOENCODER_LAYOUTS).items())
