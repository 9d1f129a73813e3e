"""Pictures drawn by torch networks, prompt by prompt: what evolution and evaluation measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.nets.unet import UNet
from sfmobile.sampling.samplers.named import ddim_of
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.sampler import sample_latents, seeded_noise

# Captions and their seeds to pictures (N, 3, H, W) in [-1, 1].
Sampler = Callable[[Sequence[str], Sequence[int]], Tensor]
# Captions to token ids (N, 77).
Encode = Callable[[Sequence[str]], Tensor]
# "auto": bfloat16 autocast on a GPU, float32 on a CPU.
SamplingPrecision = Literal["auto", "fp32", "bf16"]


def network_sampler(
    text_encoder: nn.Module,
    unet: UNet,
    decoder: nn.Module,
    schedule: NoiseSchedule,
    encode: Encode,
    *,
    steps: int,
    guidance_scale: float,
    latent_shape: tuple[int, int, int],
    scaling_factor: float = 1.0,
    precision: SamplingPrecision = "auto",
) -> Sampler:
    """A sampler over torch networks that are on one device.

    A UNet with a guidance input gets `guidance_scale` there and is evaluated once a step.
    """
    device = next(unet.parameters()).device
    autocast = device.type == "cuda" if precision == "auto" else precision == "bf16"

    @torch.no_grad()
    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            latents = sample_latents(
                unet,
                schedule,
                text_encoder(encode(captions).long().to(device)),
                text_encoder(encode([""]).long().to(device)),
                steps=steps,
                guidance_scale=guidance_scale,
                noise=seeded_noise(list(seeds), latent_shape, device),
            )
            pictures: Tensor = decoder(latents / scaling_factor)
        return pictures.float().clamp(-1, 1)

    return sample


def checkpoint_sampler(
    checkpoint: Checkpoint, *, steps: int, guidance_scale: float | None = None, device: torch.device | None = None
) -> Sampler:
    """A sampler over a checkpoint's own networks, scheduler and tokenizer; guidance as it recommends unless given."""
    from sfmobile.train.data.tokens import CaptionTokenizer

    where = device or torch.device("cpu")
    tokenizer = CaptionTokenizer(checkpoint.text_encoder_layout.max_length, checkpoint.tokenizer_dir)
    unet = cast("UNet", checkpoint.load("unet").to(where))
    return network_sampler(
        checkpoint.load("text_encoder").to(where),
        unet,
        checkpoint.load("decoder").to(where),
        NoiseSchedule(ddim_of(checkpoint.sampler), checkpoint.unet_layout.down[0].channels).to(where),
        lambda captions: torch.as_tensor(tokenizer.encode_batch(captions)),
        steps=steps,
        guidance_scale=checkpoint.guidance_scale if guidance_scale is None else guidance_scale,
        latent_shape=(checkpoint.unet_layout.in_channels, *checkpoint.latent_size),
        scaling_factor=checkpoint.autoencoder_layout.scaling_factor,
    )


def picture_side(checkpoint: Checkpoint) -> int:
    """The side of the pictures that a checkpoint draws, in pixels."""
    return checkpoint.latent_size[0] * checkpoint.autoencoder_layout.downsampling
