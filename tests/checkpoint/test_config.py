from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sfmobile.checkpoint.config import (
    AUTOENCODER_CLASS,
    UNET_CLASS,
    autoencoder_config,
    autoencoder_layout,
    latent_size,
    text_encoder_config,
    text_encoder_layout,
    unet_config,
    unet_layout,
)
from sfmobile.errors import ArtifactError
from sfmobile.nets.layout import (
    AUTOENCODER_LAYOUTS,
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    SNAPFUSION_AUTOENCODER,
    SNAPFUSION_UNET,
    UNET_LAYOUTS,
    UNetLayout,
)
from tests.nets.test_unet import EXPRESSIBLE
from tests.tiny import TINY_SNAPFUSION_UNET

FILE = Path("config.json")
# stable-diffusion-v1-5's files, as far as they say anything.
SD15_UNET_FILE = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD15_VAE_FILE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def test_sd15s_files_are_the_sd15_layouts() -> None:
    assert unet_layout(SD15_UNET_FILE, FILE) == SD15_UNET
    assert autoencoder_layout(SD15_VAE_FILE, FILE) == SD15_AUTOENCODER
    assert latent_size(SD15_UNET_FILE, FILE) == (64, 64)
    clip = {"model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    assert text_encoder_layout(clip, FILE) == SD15_TEXT_ENCODER
    assert text_encoder_layout({"model_type": "clip", "text_config": clip}, FILE) == SD15_TEXT_ENCODER


@pytest.mark.parametrize("layout", [*EXPRESSIBLE.values(), *UNET_LAYOUTS.values(), TINY_SNAPFUSION_UNET])
def test_unet_layouts_survive_writing_and_reading(layout: UNetLayout) -> None:
    assert unet_layout(unet_config(layout, (8, 8)), FILE) == layout


@pytest.mark.parametrize("layout", AUTOENCODER_LAYOUTS.values(), ids=list(AUTOENCODER_LAYOUTS))
def test_autoencoder_layouts_survive_writing_and_reading(layout: object) -> None:
    assert autoencoder_layout(autoencoder_config(layout, ("decoder", "encoder"), 64), FILE) == layout


def test_text_encoder_layouts_survive_writing_and_reading() -> None:
    layout = replace(SD15_TEXT_ENCODER, hidden=24, activation="gelu", layers=3, heads=2, vocabulary=700)
    assert text_encoder_layout(text_encoder_config(layout), FILE) == layout


def test_only_what_diffusers_can_not_express_gets_our_class() -> None:
    assert unet_config(SD15_UNET, (8, 8))["_class_name"] == "UNet2DConditionModel"
    assert unet_config(SNAPFUSION_UNET, (8, 8))["_class_name"] == UNET_CLASS
    both = ("decoder", "encoder")
    assert autoencoder_config(SD15_AUTOENCODER, both, 64)["_class_name"] == "AutoencoderKL"
    assert autoencoder_config(SD15_AUTOENCODER, ("decoder",), 64)["_class_name"] == AUTOENCODER_CLASS
    assert autoencoder_config(SNAPFUSION_AUTOENCODER, both, 64)["_class_name"] == AUTOENCODER_CLASS


def test_defaults_may_be_written_per_stage_or_as_false() -> None:
    spelled_out = {
        "transformer_layers_per_block": [1, 1, 1, 1],
        "only_cross_attention": [False] * 4,
        "mid_block_only_cross_attention": False,
        "layers_per_block": [2, 2, 2, 2],
        "attention_head_dim": [8, 8, 8, 8],
        "class_embed_type": None,
    }
    assert unet_layout({**SD15_UNET_FILE, **spelled_out}, FILE) == SD15_UNET


@pytest.mark.parametrize(("sample_size", "expected"), [(None, (64, 64)), (96, (96, 96)), ([32, 64], (32, 64))])
def test_latent_size_is_square_unless_two_numbers_are_given(sample_size: object, expected: tuple[int, int]) -> None:
    assert latent_size({"sample_size": sample_size}, FILE) == expected


def test_a_stored_layout_that_can_not_run_is_refused_with_its_file() -> None:
    config = unet_config(TINY_SNAPFUSION_UNET, (8, 8))
    config["layout"]["up"][0]["resnets"] = 1
    with pytest.raises(ArtifactError, match=r"^config\.json: UNet layout 'tiny-snapfusion': up stage 0 doesn't close"):
        unet_layout(config, FILE)
    config["layout"]["up"][0]["resnets"] = "many"
    with pytest.raises(ArtifactError, match=r"config\.json' is not .* at layout\.up\.0\.resnets: .*found 'many'; use"):
        unet_layout(config, FILE)
    with pytest.raises(ArtifactError, match=r"config\.json' is not .* at layout: it is missing; use"):
        unet_layout({"_class_name": UNET_CLASS}, FILE)
