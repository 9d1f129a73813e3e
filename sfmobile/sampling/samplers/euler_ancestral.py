"""Ancestral sampling with Euler steps (K. Crowson's k-diffusion; variances as of arXiv 2006.11239's posterior).

A step to the level sigma' goes down further, to sigma_down, and adds noise of deviation sigma_up:

    sigma_up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2,   sigma_down^2 = sigma'^2 - sigma_up^2
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from sfmobile.bundle.samplers import EulerAncestralRecord
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.euler import InLevels
from sfmobile.sampling.samplers.prediction import denoised_in_levels
from sfmobile.sampling.samplers.sampler import Prediction
from sfmobile.sampling.samplers.schedule import levels


class EulerAncestral(InLevels):
    """One network call and one draw a step; the last draw is multiplied by zero."""

    stochastic: ClassVar[bool] = True

    def __init__(self, record: EulerAncestralRecord, steps: int, noise: Noise) -> None:
        super().__init__(levels(record, steps), record.timestep_spacing, noise)
        self.record = record

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        sigma, following = self.sigmas[self.index : self.index + 2]
        up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
        down = math.sqrt(following**2 - up**2)
        denoised = denoised_in_levels(self.record.prediction_type, output, x, sigma)
        return Prediction(x + ((down - sigma) / sigma) * (x - denoised) + up * self._draw(x), denoised)
