"""Batched sampling on the training device, for evaluation and for decoder distillation: DDIM, and any sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.bundle.samplers import SamplerRecord
from sfmobile.nets.unet import UNet
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.starting import start
from sfmobile.sampling.time_embedding import guidance_sinusoid as host_guidance_sinusoid
from sfmobile.sampling.time_embedding import sinusoid
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


@torch.no_grad()
def walk_latents(
    unet: UNet,
    record: SamplerRecord,
    time_embedding: TimeEmbeddingRecord,
    context: Tensor,
    empty_context: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    seeds: Sequence[int],
    latent_shape: tuple[int, int, int],
) -> Tensor:
    """A walk by any sampler for each seed, as the pipeline walks it: its own noise, its own history, the same picture.

    Only the UNet is called for all of them at once. Arguments and result as `sample_latents`, of the same guidance,
    but that a UNet with a guidance input gets the scale as the pipeline embeds it.
    Raises `UsageError` for steps that the sampler can't take.
    """
    device, noises = context.device, [Noise(seed) for seed in seeds]
    walks = [start(record, steps, noise) for noise in noises]
    unit = [noise.normal((1, *latent_shape)) for noise in noises]
    latents = [row * np.float32(walk.noise_scale) for row, walk in zip(unit, walks, strict=True)]
    rows = len(latents)
    takes_scale = unet.layout.guidance_embedding_dim
    halves = guidance_scale > 1.0 and takes_scale is None
    if halves:
        context = torch.cat([empty_context.expand(rows, -1, -1, -1), context])
    scale = None if takes_scale is None else host_guidance_sinusoid(guidance_scale, takes_scale)
    embedded_scale = None if scale is None else torch.from_numpy(scale).to(device).expand(rows, -1, -1, -1)
    for timestep in walks[0].timesteps.tolist():
        inputs = torch.from_numpy(
            np.concatenate([walk.model_input(row) for walk, row in zip(walks, latents, strict=True)])
        )
        inputs = inputs.to(device).repeat(2 if halves else 1, 1, 1, 1)
        time = torch.from_numpy(sinusoid([timestep], time_embedding)).to(device).expand(len(inputs), -1, -1, -1)
        output = unet(inputs, time, context, guidance_embedding=embedded_scale).float()
        if halves:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance_scale * (conditional - unconditional)
        outputs = output.cpu().numpy()
        latents = [walk.step(outputs[index : index + 1], latents[index]).latents for index, walk in enumerate(walks)]
    return torch.from_numpy(np.concatenate(latents)).to(device)


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
