"""Trajectory consistency distillation's strategic stochastic sampling (arXiv 2402.19159, algorithm 2).

A call at t predicts the latents at a timestep s' = (1 - eta) s below the next one, s, on the straight line of its x_0
and e; noise takes them up to s: x_s = sqrt(a_s / a_s') x_s' + sqrt(1 - a_s / a_s') z.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from sfmobile.bundle.samplers import TCDRecord
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.lcm import distilled_timesteps
from sfmobile.sampling.samplers.prediction import denoised, noise
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import alphas_cumprod, amplitudes, check_signal


class TCD(Sampler):
    """One network call a step; draws between steps unless eta is 0. The last step leads to timestep 0."""

    stochastic: ClassVar[bool] = True

    def __init__(self, record: TCDRecord, steps: int, noise: Noise, share: float = 1.0) -> None:
        super().__init__(distilled_timesteps(record, steps, share), noise)
        self.record = record
        self.alphas_cumprod = alphas_cumprod(record)
        check_signal(record, self.alphas_cumprod, int(self.timesteps[0]))

    def _amplitudes(self) -> tuple[float, float]:
        return amplitudes(self.alphas_cumprod, int(self.timesteps[self.index]))

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        kind, is_last = self.record.prediction_type, self.index + 1 == self.calls
        following = 0 if is_last else int(self.timesteps[self.index + 1])
        # float32 as in diffusers, where a product that is whole in one precision may not be in the other.
        below = int(np.floor(np.float32(1.0 - self.record.eta) * np.float32(following)))
        a_t, a_s, a_below = (float(self.alphas_cumprod[t]) for t in (self.timesteps[self.index], following, below))
        alpha, sigma = math.sqrt(a_t), math.sqrt(1.0 - a_t)
        clean = denoised(kind, output, x, alpha, sigma)
        latents = math.sqrt(a_below) * clean + math.sqrt(1.0 - a_below) * noise(kind, output, x, alpha, sigma)
        if self.record.eta > 0 and not is_last:
            latents = math.sqrt(a_s / a_below) * latents + math.sqrt(1.0 - a_s / a_below) * self._draw(x)
        return Prediction(latents, clean)
