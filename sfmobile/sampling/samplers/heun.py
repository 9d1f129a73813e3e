"""Heun's method in the noise level (arXiv 2206.00364, algorithm 1 with no churn).

An Euler step to the next level, a second network call there, and the step again with the mean of both slopes. The last
step, to level 0, where no slope can be had, is Euler's.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sfmobile.bundle.samplers import HeunRecord
from sfmobile.errors import UsageError
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.euler import InLevels
from sfmobile.sampling.samplers.prediction import denoised_in_levels
from sfmobile.sampling.samplers.sampler import Prediction
from sfmobile.sampling.samplers.schedule import Levels, levels


class Heun(InLevels):
    """2 `steps` - 1 network calls. Between the two of a step the latents are those of its Euler step."""

    calls_a_step: ClassVar[int] = 2

    def __init__(self, record: HeunRecord, steps: int, noise: Noise) -> None:
        if record.rescale_betas_zero_snr:
            # The mean of slopes at levels of 4096 and 20, say, is off by more than the latents' size.
            raise UsageError(
                "Heun's method can't start from pure noise, as this model does; take another sampler, euler say."
            )
        once = levels(record, steps, record.sigma_schedule)
        twice = np.concatenate([once.sigmas[:1], np.repeat(once.sigmas[1:-1], 2), once.sigmas[-1:]])
        told = np.concatenate([once.timesteps[:1], np.repeat(once.timesteps[1:], 2)])
        super().__init__(Levels(told, twice), record.timestep_spacing, noise)
        self.record = record
        self._start: np.ndarray | None = None
        self._slope: np.ndarray | None = None

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        sigma = self.sigmas[self.index]
        denoised = denoised_in_levels(self.record.prediction_type, output, x, sigma)
        slope = (x - denoised) / sigma
        if self._start is None or self._slope is None:
            if self.index + 1 < self.calls:
                self._start, self._slope = x, slope
            return Prediction(x + (self.sigmas[self.index + 1] - sigma) * slope, denoised)
        latents = self._start + (sigma - self.sigmas[self.index - 1]) * ((self._slope + slope) / 2)
        self._start = self._slope = None
        return Prediction(latents, denoised)
