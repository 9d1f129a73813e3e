"""Tiny random ControlNets as diffusers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from sfmobile.checkpoint.config import unet_config
from sfmobile.nets.layout import UNetLayout
from sfmobile.testing import random_weight
from tests.tiny import TINY_LATENT_SIZE, TINY_UNET


def write_controlnet(folder: Path, seed: int = 0, layout: UNetLayout = TINY_UNET, **changes: Any) -> ControlNetModel:
    """A ControlNet of random weights in `folder`; its zero convolutions aren't zero."""
    config = unet_config(layout, TINY_LATENT_SIZE)
    taken = {
        key: config[key]
        for key in (
            *("in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "mid_block_type"),
            *("block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim"),
            "attention_head_dim",
        )
    }
    net = ControlNetModel(**{**taken, "conditioning_embedding_out_channels": (4, 8), **changes})
    with torch.no_grad():
        for name, weight in net.named_parameters():
            # 0.4: of the size that trained ones add, beside skip connections of random networks.
            weight.copy_(0.4 * random_weight(name, tuple(weight.shape), seed))
    net.save_pretrained(folder)
    return net.eval()
