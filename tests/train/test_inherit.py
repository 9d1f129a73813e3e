"""An efficient UNet starts from its teacher's blocks."""

from __future__ import annotations

import torch

from sfmobile.nets.layout import (
    GLYPH_64_UNET,
    GLYPH_128_UNET,
    GLYPH_TEACHER_UNET,
    GLYPH_UNET,
    SD15_UNET,
    SNAPFUSION_UNET,
)
from sfmobile.nets.unet import UNet
from sfmobile.train.inherit import Origin, block_origins, inherit_weights


def test_blocks_are_matched_by_the_place_they_run_at():
    origins = block_origins(GLYPH_TEACHER_UNET, GLYPH_UNET)
    # Up stages agree from their end, where the skip connections are.
    assert origins["up_blocks.0.resnets.1"] == Origin("up_blocks.0.resnets.2")
    # The student runs attentions 0 and 1 behind ResNet 0; the second is an added copy.
    assert origins["up_blocks.1.attentions.0"] == Origin("up_blocks.1.attentions.0")
    assert origins["up_blocks.1.attentions.1"] == Origin("up_blocks.1.attentions.0", added=True)
    assert origins["up_blocks.1.attentions.3"] == Origin("up_blocks.1.attentions.2")


def test_every_block_of_snapfusion_has_an_origin_in_sd15():
    assert set(block_origins(SD15_UNET, SNAPFUSION_UNET)) == set(SNAPFUSION_UNET.block_names())


def test_the_same_layout_inherits_everything():
    torch.manual_seed(0)
    source, target = UNet(GLYPH_UNET), UNet(GLYPH_UNET)
    assert inherit_weights(source, target) == ()
    for name, weight in target.state_dict().items():
        assert torch.equal(weight, source.state_dict()[name]), name


def test_the_student_keeps_no_random_block_and_added_blocks_change_nothing_yet():
    torch.manual_seed(0)
    source, target = UNet(GLYPH_TEACHER_UNET), UNet(GLYPH_UNET)
    assert inherit_weights(source, target) == ()
    state = target.state_dict()
    assert not state["up_blocks.1.attentions.1.proj_out.weight"].any()
    assert torch.equal(
        state["up_blocks.0.resnets.1.conv1.weight"], source.state_dict()["up_blocks.0.resnets.2.conv1.weight"]
    )


def test_a_unet_for_larger_latents_starts_from_the_smaller_one_level_by_level_from_the_bottom():
    torch.manual_seed(0)
    source, target = UNet(GLYPH_64_UNET), UNet(GLYPH_128_UNET)
    own = inherit_weights(source, target)
    # Only the new level on top, and the convolution that leads up to it, keep their own start.
    assert all(name.startswith(("down_blocks.0.", "up_blocks.1.upsamplers.", "up_blocks.2.")) for name in own)
    given, taken = source.state_dict(), target.state_dict()
    for there, here in (
        ("down_blocks.0.resnets.0.conv1.weight", "down_blocks.1.resnets.0.conv1.weight"),
        ("down_blocks.0.downsamplers.0.conv.weight", "down_blocks.1.downsamplers.0.conv.weight"),
        ("down_blocks.1.attentions.0.proj_in.weight", "down_blocks.2.attentions.0.proj_in.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        ("up_blocks.1.resnets.1.conv1.weight", "up_blocks.1.resnets.1.conv1.weight"),
        ("time_embedding.linear_1.weight", "time_embedding.linear_1.weight"),
    ):
        assert torch.equal(given[there], taken[here]), here
