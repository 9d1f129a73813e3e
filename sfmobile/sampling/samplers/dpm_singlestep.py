"""DPM-Solver++ singlestep of second order (arXiv 2211.01095, algorithm 1), as diffusers walks it.

Steps go by twos: the first call's goes to the next level in first order, the second call's begins where the first began
and goes two levels in second order, the first call's x_0 being its base and the second's making the difference. A last
odd step, and the step to level 0, are of first order.
"""

from __future__ import annotations

import numpy as np

from sfmobile.bundle.samplers import DPMSinglestepRecord
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.dpm_solver import Point, Update, first_order, second_order
from sfmobile.sampling.samplers.prediction import denoised
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import solver_levels


class DPMSinglestep(Sampler):
    """One network call a step."""

    def __init__(self, record: DPMSinglestepRecord, steps: int, noise: Noise) -> None:
        visited = solver_levels(record, steps, record.sigma_schedule, record.final_sigma, record.lambda_min)
        super().__init__(visited.timesteps, noise)
        self.record = record
        self.points = [Point.at(float(sigma)) for sigma in visited.sigmas]
        self._begun: tuple[np.ndarray, np.ndarray] | None = None

    def is_second(self) -> bool:
        """Whether this call ends a step of second order."""
        if self.record.solver_order == 1 or self.index % 2 == 0:
            return False
        lower_final = self.record.lower_order_final or self.record.final_sigma == "zero"
        return self.index + 1 < self.calls or not lower_final

    def _amplitudes(self) -> tuple[float, float]:
        here = self.points[self.index]
        return here.alpha, here.sigma

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        here, end = self.points[self.index : self.index + 2]
        clean = denoised(self.record.prediction_type, output, x, here.alpha, here.sigma)
        # A walk that begins with the second of two calls has nothing to make a difference with.
        begun = self._begun if self.is_second() else None
        start = here if begun is None else self.points[self.index - 1]
        update = Update(start, end, self.record.stochastic, self.record.solver_type)
        if begun is not None:
            before, base = begun
            difference = (update.h / (here.lambda_ - start.lambda_)) * (clean - base)
            latents = second_order(update, before, base, difference)
        else:
            self._begun = (x, clean)
            latents = first_order(update, x, clean)
        if self.record.stochastic:
            latents = latents + update.noise * self._draw(x)
        return Prediction(latents, clean)
