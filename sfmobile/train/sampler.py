"""Batched DDIM sampling on the training device, for evaluation and for decoder distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfmobile.nets.unet import UNet
from sfmobile.train.diffusion import NoiseSchedule, StepGrid, guidance_sinusoid, guide
from sfmobile.train.randomness import generator_for

# (noisy, time_embedding, encoder_hidden_states) to v.
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sample_latents(
    unet: UNet,
    schedule: NoiseSchedule,
    context: Tensor,
    empty_context: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    noise: Tensor,
) -> Tensor:
    """DDIM with classifier-free guidance in one double batch; none at scale 1.

    A UNet with a guidance input gets the scale there and is evaluated once a step.

    context (B, C, 1, 77), empty_context (1, C, 1, 77), noise (B, 4, h, w) on the device; returns latents (B, 4, h, w).
    """
    grid = StepGrid.of(schedule.scheduler, steps)
    latents = noise
    batch = latents.shape[0]
    denoiser, outside_scale = _guided(unet, guidance_scale)
    scale = torch.tensor(outside_scale, device=latents.device)
    both = torch.cat([empty_context.expand(batch, -1, -1, -1), context])
    for timestep, target in zip(grid.timesteps, grid.targets, strict=True):
        t = torch.full((batch,), timestep, device=latents.device)
        if outside_scale == 1.0:
            velocity = denoiser(latents, schedule.embed(t), context).float()
        else:
            doubled = denoiser(latents.repeat(2, 1, 1, 1), schedule.embed(t).repeat(2, 1, 1, 1), both).float()
            unconditional, conditional = doubled.chunk(2)
            velocity = guide(conditional, unconditional, scale)
        latents = schedule.ddim_step(latents, velocity, t, torch.full_like(t, target))
    return latents


def _guided(unet: UNet, scale: float) -> tuple[Denoiser, float]:
    """What predicts v at a guidance scale, and the scale left to apply outside: 1 where the UNet takes it in."""
    channels = unet.layout.guidance_embedding_dim
    if channels is None:
        return unet, scale

    def denoise(noisy: Tensor, time_embedding: Tensor, context: Tensor) -> Tensor:
        scales = torch.full((noisy.shape[0],), scale, device=noisy.device)
        velocity: Tensor = unet(noisy, time_embedding, context, guidance_embedding=guidance_sinusoid(scales, channels))
        return velocity

    return denoise, 1.0


def seeded_noise(seeds: list[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """One (4, h, w) noise per seed from the CPU generator, equal to what the shipped pipeline starts from."""
    rows = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(rows).to(device)


def fresh_noise(shape: tuple[int, ...], device: torch.device, *key: int | str) -> Tensor:
    """Noise drawn on the device from a counter key."""
    return torch.randn(shape, generator=generator_for(device, *key), device=device)
