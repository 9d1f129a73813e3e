"""Euler's method in the noise level (arXiv 2206.00364, algorithm 1 without its second-order part).

Latents are x_0 + sigma e, so the probability flow is dx / dsigma = (x - x_0) / sigma, and one step to the next level is

    x' = x + (sigma' - sigma) (x - x_0) / sigma

The network was trained on latents of variance 1: it takes x / sqrt(sigma^2 + 1).
"""

from __future__ import annotations

import math

import numpy as np

from sfmobile.bundle.samplers import EulerRecord, TimestepSpacing
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.prediction import denoised_in_levels
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import Levels, levels


class InLevels(Sampler):
    """A walk whose latents are x_0 + sigma e; `sigmas` are the levels of each call, and the last one reached."""

    def __init__(self, visited: Levels, spacing: TimestepSpacing, noise: Noise) -> None:
        # Leading runs start below the last trained timestep, where latents still hold some picture: as in training,
        # it is added to the noise, though it is that of nothing.
        largest = float(visited.sigmas.max())
        scale = math.sqrt(largest * largest + 1.0) if spacing == "leading" else largest
        super().__init__(visited.timesteps, noise, scale)
        self.sigmas = [float(sigma) for sigma in visited.sigmas]

    def model_input(self, latents: np.ndarray) -> np.ndarray:
        """Latents scaled to variance 1."""
        sigma = self.sigmas[self.index]
        return latents / math.sqrt(sigma * sigma + 1.0)

    def _amplitudes(self) -> tuple[float, float]:
        return 1.0, self.sigmas[self.index]


class Euler(InLevels):
    """One network call a step; draws nothing."""

    def __init__(self, record: EulerRecord, steps: int, noise: Noise) -> None:
        ends = (record.sigma_max, record.sigma_min)
        visited = levels(record, steps, record.sigma_schedule, ends, record.final_sigma)
        super().__init__(visited, record.timestep_spacing, noise)
        self.record = record

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        sigma, following = self.sigmas[self.index : self.index + 2]
        denoised = denoised_in_levels(self.record.prediction_type, output, x, sigma)
        return Prediction(x + ((following - sigma) / sigma) * (x - denoised), denoised)
