"""The networks of diffusers and transformers with our weights, to compare with."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from sfmobile.checkpoint.config import autoencoder_config, text_encoder_config, unet_config
from sfmobile.checkpoint.weights import PartName, stored_names, stored_shape
from sfmobile.nets.layout import AutoencoderLayout, TextEncoderLayout, UNetLayout
from sfmobile.signal import psnr
from sfmobile.testing import random_weight

PARITY_DB = 90.0


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Random weights with norms away from 1 and 0, so that none folds away."""
    net.load_state_dict({key: random_weight(key, tuple(value.shape), seed) for key, value in net.state_dict().items()})
    net.eval().requires_grad_(False)


def give_weights(part: PartName, ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Load our weights into the oracle, under its names and in its shapes; every weight of it must be given."""
    names = set(theirs.state_dict())
    state = {}
    for key, tensor in ours.state_dict().items():
        name = next(name for name in stored_names(part, key) if name in names)
        state[name] = tensor.reshape(stored_shape(key, tuple(tensor.shape)))
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    prefix = "encoder." if part == "decoder" else "decoder."
    assert [name for name in missing if part not in ("decoder", "encoder") or not name.startswith(prefix)] in (
        [],
        ["quant_conv.weight", "quant_conv.bias"],
        ["post_quant_conv.weight", "post_quant_conv.bias"],
    )
    return theirs.eval().requires_grad_(False)


def diffusers_unet(layout: UNetLayout) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(unet_config(layout, (8, 8)))


def diffusers_autoencoder(layout: AutoencoderLayout) -> AutoencoderKL:
    return AutoencoderKL.from_config(autoencoder_config(layout, ("decoder", "encoder"), 64))


def clip_text_model(layout: TextEncoderLayout) -> CLIPTextModel:
    config = text_encoder_config(layout)
    return CLIPTextModel(CLIPTextConfig(**{key: value for key, value in config.items() if key != "model_type"}))


def time_embedding(timesteps: Tensor, dimension: int) -> Tensor:
    return get_timestep_embedding(timesteps, dimension, flip_sin_to_cos=True, downscale_freq_shift=0)


def agreement_db(reference: Tensor, result: Tensor) -> float:
    return psnr(np.asarray(reference), np.asarray(result))


def as_context(states: Tensor) -> Tensor:
    """Hidden states (B, S, C) of transformers in our layout (B, C, 1, S)."""
    return states.transpose(1, 2).unsqueeze(2)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
