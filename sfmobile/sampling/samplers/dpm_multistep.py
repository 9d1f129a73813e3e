"""DPM-Solver++ multistep (arXiv 2211.01095, algorithm 2; third order: appendix B): earlier calls give differences."""

from __future__ import annotations

from collections import deque

import numpy as np

from sfmobile.bundle.samplers import DPMSolverRecord
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.dpm_solver import Point, Update, first_order, second_order
from sfmobile.sampling.samplers.prediction import denoised
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import solver_levels

# Runs under this many steps end in lower orders, if the record says so.
FEW_STEPS = 15


class DPMMultistep(Sampler):
    """One network call a step; the SDE variant draws at every step, the last draw multiplied by zero."""

    def __init__(self, record: DPMSolverRecord, steps: int, noise: Noise) -> None:
        visited = solver_levels(record, steps, record.sigma_schedule, record.final_sigma, record.lambda_min)
        super().__init__(visited.timesteps, noise)
        self.record = record
        self.points = [Point.at(float(sigma)) for sigma in visited.sigmas]
        self._denoised: deque[np.ndarray] = deque(maxlen=record.solver_order)

    def order(self) -> int:
        """Of this call's step: as many outputs as there are, fewer at the end."""
        record, left = self.record, self.calls - self.index
        few = record.lower_order_final and self.calls < FEW_STEPS
        order = min(record.solver_order, len(self._denoised))
        # Without noise at its end lambda is infinite there; a curve that ends at the last level goes nowhere from it.
        # Differences in lambda mean nothing then.
        here, end = self.points[self.index : self.index + 2]
        if left == 1 and (record.euler_at_final or few or end.sigma in (0, here.sigma)):
            return 1
        return min(order, 2) if left == 2 and few else order

    def _amplitudes(self) -> tuple[float, float]:
        here = self.points[self.index]
        return here.alpha, here.sigma

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        start, end = self.points[self.index : self.index + 2]
        clean = denoised(self.record.prediction_type, output, x, start.alpha, start.sigma)
        self._denoised.append(clean)
        update = Update(start, end, self.record.stochastic, self.record.solver_type)
        order = self.order()
        if order == 1:
            latents = first_order(update, x, clean)
        else:
            slope = self._slope(0, update.h)
            if order == 2:
                latents = second_order(update, x, clean, slope)
            else:
                latents = self._third_order(update, x, clean, slope)
        if self.record.stochastic:
            latents = latents + update.noise * self._draw(x)
        return Prediction(latents, clean)

    def _distance(self, age: int) -> float:
        """Of two calls in lambda, the later one `age` calls ago."""
        return self.points[self.index - age].lambda_ - self.points[self.index - age - 1].lambda_

    def _slope(self, age: int, h: float) -> np.ndarray:
        """Difference of x_0 between those two calls, for a distance h."""
        later, before = self._denoised[-1 - age], self._denoised[-2 - age]
        slope: np.ndarray = (h / self._distance(age)) * (later - before)
        return slope

    def _third_order(self, update: Update, x: np.ndarray, clean: np.ndarray, slope: np.ndarray) -> np.ndarray:
        r0, r1 = self._distance(0) / update.h, self._distance(1) / update.h
        bend = (1.0 / (r0 + r1)) * (slope - self._slope(1, update.h))
        of_slope, of_bend = update.third
        latents: np.ndarray = first_order(update, x, clean) + of_slope * (slope + r0 * bend) + of_bend * bend
        return latents
