"""Single files of Stable Diffusion XL, made of a tiny pipeline of diffusers and read as diffusers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.weights import stored_names
from sfmobile.errors import ArtifactError
from sfmobile.sampling.tokenizer import Tokenizer
from sfmobile.verify.diffusers_reference import _Theirs, why_not
from tests.checkpoint.ldm_files import Tensors, pipeline_1, single_file_xl, write


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFMOBILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pipeline(pruned: bool) -> Any:
    """32 groups and heads of 64 channels, as all of these files have; `pruned` as SSD-1B is."""
    first = pipeline_1()
    torch.manual_seed(4)
    depths: dict[str, Any] = {"transformer_layers_per_block": (1, 2)}
    if pruned:
        depths = {
            "transformer_layers_per_block": (1, (2,)),
            "reverse_transformer_layers_per_block": ((2, 3), 1),
            "mid_block_type": "UNetMidBlock2D",
        }
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64 + 128,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=64 + 6 * 256,
        **depths,
    )
    text = {
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_attention_heads": 1,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "num_hidden_layers": 2,
    }
    # diffusers tells the encoders of a file apart by their widths.
    second = {**text, "hidden_size": 128, "num_attention_heads": 2, "projection_dim": 64, "hidden_act": "gelu"}
    return StableDiffusionXLPipeline(
        vae=first.vae,
        unet=unet,
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**second)),
        tokenizer=first.tokenizer,
        tokenizer_2=first.tokenizer,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


@pytest.mark.parametrize("pruned", [False, True], ids=["sdxl", "ssd-1b"])
def test_the_networks_are_those_that_the_file_was_made_of(pruned: bool, tmp_path: Path) -> None:
    made = pipeline(pruned)
    tensors = single_file_xl(made)
    if not pruned:
        # diffusers finds no middle without attention by these names.
        net = made.unet.state_dict()
        found = convert_ldm_unet_checkpoint(dict(tensors), {**made.unet.config, "class_embed_type": None})
        assert found.keys() == net.keys() and all(torch.equal(found[name], net[name]) for name in net)
    checkpoint = open_checkpoint(write(tensors, tmp_path / "xl.safetensors"))
    assert checkpoint.pipeline.family == "stable-diffusion-xl" and checkpoint.latent_size == (128, 128)
    assert checkpoint.autoencoder_layout.scaling_factor == 0.13025
    assert checkpoint.sampler.kind == "euler" and checkpoint.sampler.prediction_type == "epsilon"
    for network in ("unet", "text_encoder", "text_encoder_2"):
        theirs = getattr(made, network).state_dict()
        for key, weight in checkpoint.state_dict(network).items():
            name = next(name for name in stored_names(network, key) if name in theirs)
            assert torch.equal(theirs[name].reshape(weight.shape), weight), key
    padded = [Tokenizer(text.tokenizer_dir, text.tokenizer).encode("a")[0, -1] for text in checkpoint.texts]
    assert padded == [49407, 0]


def test_the_reference_of_verify_reads_the_file_itself(tmp_path: Path) -> None:
    made = pipeline(False)
    checkpoint = open_checkpoint(write(single_file_xl(made), tmp_path / "xl.safetensors"))
    assert why_not(checkpoint) is None
    theirs = _Theirs(checkpoint).pipeline
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        found, expected = (getattr(one, name).state_dict() for one in (theirs, made))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key].reshape(expected[key].shape), expected[key]) for key in expected), name


def test_a_file_without_the_second_encoder_is_refused(tmp_path: Path) -> None:
    tensors: Tensors = single_file_xl(pipeline(False))
    cut = {name: tensor for name, tensor in tensors.items() if not name.startswith("conditioner.embedders.1.")}
    with pytest.raises(ArtifactError, match=r"xl.safetensors holds no text encoder"):
        open_checkpoint(write(cut, tmp_path / "xl.safetensors"))
