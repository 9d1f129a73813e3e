"""Pictures drawn by torch networks, prompt by prompt: what evolution and evaluation measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.nets.unet import UNet
from sfmobile.sampling.samplers.named import named
from sfmobile.sampling.samplers.starting import start
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.sampler import sample_latents, seeded_noise, walk_latents

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
    checkpoint: Checkpoint,
    *,
    steps: int,
    guidance_scale: float | None = None,
    device: torch.device | None = None,
    sampler: str | None = None,
) -> Sampler:
    """A sampler over a checkpoint's own networks and tokenizer: the pictures that its pipeline draws.

    guidance_scale, sampler: as the checkpoint recommends unless given; samplers by the names of
    `sfmobile.sampling.samplers.named`. Raises `UsageError` for a sampler or steps that can't walk this model.
    """
    from sfmobile.train.data.tokens import CaptionTokenizer

    where = device or torch.device("cpu")
    record = checkpoint.sampler if sampler is None else named(checkpoint.sampler, sampler)
    start(record, steps)
    tokenizer = CaptionTokenizer(checkpoint.text_encoder_layout.max_length, checkpoint.tokenizer_dir)
    text_encoder, decoder = checkpoint.load("text_encoder").to(where), checkpoint.load("decoder").to(where)
    unet = cast("UNet", checkpoint.load("unet").to(where))
    scale = checkpoint.guidance_scale if guidance_scale is None else guidance_scale

    def encode(captions: Sequence[str]) -> Tensor:
        states: Tensor = text_encoder(torch.as_tensor(tokenizer.encode_batch(captions)).long().to(where))
        return states

    @torch.no_grad()
    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
            latents = walk_latents(
                unet,
                record,
                checkpoint.time_embedding,
                encode(captions),
                encode([""]),
                steps=steps,
                guidance_scale=scale,
                seeds=seeds,
                latent_shape=(checkpoint.unet_layout.in_channels, *checkpoint.latent_size),
            )
            pictures: Tensor = decoder(latents / checkpoint.autoencoder_layout.scaling_factor)
        return pictures.float().clamp(-1, 1)

    return sample


def picture_side(checkpoint: Checkpoint) -> int:
    """The side of the pictures that a checkpoint draws, in pixels."""
    return checkpoint.latent_size[0] * checkpoint.autoencoder_layout.downsampling
