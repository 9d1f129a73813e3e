"""Diffusion in the v-parameterisation (arXiv 2202.00512), on tensors.

z_t = alpha_t x + sigma_t eps, v = alpha_t eps - sigma_t x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.sampling.samplers.schedule import alphas_cumprod, walked_timesteps
from sfmobile.sampling.time_embedding import sinusoid


def column(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1), to scale a batch of latents."""
    return values.reshape(-1, 1, 1, 1)


class NoiseSchedule(nn.Module):
    """alpha_t and sigma_t by timestep (index 0 is "before the first step": the clean latent), and the sinusoid table.

    scheduler: the constants, which decide the timesteps of a run over it, too. Buffers: `alphas`, `sigmas` (T + 1,)
    float32; `sinusoids` (T, C). Timesteps are 0 ... T - 1; -1 means clean.
    """

    alphas: Tensor
    sigmas: Tensor
    sinusoids: Tensor

    def __init__(self, scheduler: DDIMRecord, time_channels: int) -> None:
        super().__init__()
        self.scheduler = scheduler
        cumulative = torch.as_tensor(alphas_cumprod(scheduler), dtype=torch.float64)
        final = torch.ones(1, dtype=torch.float64) if scheduler.set_alpha_to_one else cumulative[:1]
        cumulative = torch.cat([final, cumulative])
        self.timesteps = scheduler.num_train_timesteps
        self.register_buffer("alphas", cumulative.sqrt().float(), persistent=False)
        self.register_buffer("sigmas", (1 - cumulative).clamp_min(0).sqrt().float(), persistent=False)
        record = TimeEmbeddingRecord(dimension=time_channels)
        table = sinusoid(range(self.timesteps), record)
        self.register_buffer(
            "sinusoids", torch.as_tensor(table).reshape(self.timesteps, time_channels), persistent=False
        )

    def alpha(self, timestep: Tensor) -> Tensor:
        """alpha_t as (B, 1, 1, 1)."""
        return column(self.alphas[timestep + 1])

    def sigma(self, timestep: Tensor) -> Tensor:
        """sigma_t as (B, 1, 1, 1)."""
        return column(self.sigmas[timestep + 1])

    def embed(self, timestep: Tensor) -> Tensor:
        """The UNet's `time_embedding` input (B, C, 1, 1)."""
        return self.sinusoids[timestep][:, :, None, None]

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """z_t = alpha_t x + sigma_t eps."""
        return self.alpha(timestep) * clean + self.sigma(timestep) * noise

    def velocity(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """v = alpha_t eps - sigma_t x."""
        return self.alpha(timestep) * noise - self.sigma(timestep) * clean

    def clean(self, noisy: Tensor, velocity: Tensor, timestep: Tensor) -> Tensor:
        """x = alpha_t z_t - sigma_t v (SnapFusion eq. 8)."""
        return self.alpha(timestep) * noisy - self.sigma(timestep) * velocity

    def ddim_step(self, noisy: Tensor, velocity: Tensor, timestep: Tensor, target: Tensor) -> Tensor:
        """One DDIM step t -> t' from v (SnapFusion eq. 7): alpha' (alpha z - sigma v) + sigma' (sigma z + alpha v)."""
        alpha, sigma = self.alpha(timestep), self.sigma(timestep)
        clean = alpha * noisy - sigma * velocity
        noise = sigma * noisy + alpha * velocity
        return self.alpha(target) * clean + self.sigma(target) * noise


@dataclass(frozen=True)
class StepGrid:
    """The timesteps of an N-step DDIM run, first to last, each with the timestep it leads to (-1 = clean)."""

    timesteps: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, scheduler: DDIMRecord, steps: int) -> StepGrid:
        """Grid of the scheduler's own spacing."""
        timesteps = tuple(int(t) for t in walked_timesteps(scheduler, steps))
        return cls(timesteps, (*timesteps[1:], -1))


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance: w v(c) - (w - 1) v(null)."""
    return scale * conditional - (scale - 1) * unconditional


def guidance_sinusoid(scale: Tensor, channels: int) -> Tensor:
    """Guidance scales (B,) to (B, channels, 1, 1), the input of a UNet that is conditioned on them.

    The sinusoid of 1000 times w = scale - 1 (arXiv 2310.04378, section 4.3), as `sampling.time_embedding` computes it
    on the host for whatever was trained so.
    """
    half = channels // 2
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half) / (half - 1)).to(scale.device)
    angles = (scale[:, None] - 1) * 1000.0 * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :, None, None]
