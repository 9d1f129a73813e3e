"""Batched DDIM sampling on the training device, for evaluation and for decoder distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfmobile.bundle.manifest import SchedulerRecord
from sfmobile.train.diffusion import NoiseSchedule, StepGrid, guide
from sfmobile.train.randomness import generator_for

# (noisy, time_embedding, encoder_hidden_states) to v.
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    scheduler: SchedulerRecord,
    context: Tensor,
    empty_context: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    noise: Tensor,
) -> Tensor:
    """DDIM with classifier-free guidance in one double batch; none at scale 1.

    context (B, C, 1, 77), empty_context (1, C, 1, 77), noise (B, 4, h, w) on the device; returns latents (B, 4, h, w).
    """
    grid = StepGrid.of(scheduler, steps)
    latents = noise
    batch = latents.shape[0]
    scale = torch.tensor(guidance_scale, device=latents.device)
    both = torch.cat([empty_context.expand(batch, -1, -1, -1), context])
    for timestep, target in zip(grid.timesteps, grid.targets, strict=True):
        t = torch.full((batch,), timestep, device=latents.device)
        if guidance_scale == 1.0:
            velocity = denoiser(latents, schedule.embed(t), context).float()
        else:
            doubled = denoiser(latents.repeat(2, 1, 1, 1), schedule.embed(t).repeat(2, 1, 1, 1), both).float()
            unconditional, conditional = doubled.chunk(2)
            velocity = guide(conditional, unconditional, scale)
        latents = schedule.ddim_step(latents, velocity, t, torch.full_like(t, target))
    return latents


def seeded_noise(seeds: list[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """One (4, h, w) noise per seed from the CPU generator, equal to what the shipped pipeline starts from."""
    rows = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(rows).to(device)


def fresh_noise(shape: tuple[int, ...], device: torch.device, *key: int | str) -> Tensor:
    """Noise drawn on the device from a counter key."""
    return torch.randn(shape, generator=generator_for(device, *key), device=device)
