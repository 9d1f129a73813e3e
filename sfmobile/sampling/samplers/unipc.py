"""UniPC (arXiv 2302.04867): a predictor as the DPM solvers', whose last step is corrected with the next call's output.

Both are of the form (equations 3 and 9, for a network that predicts x_0)

    x_t = sigma_t / sigma_s x_s - alpha_t (e^-h - 1) x_0(s) - alpha_t B(h) sum over m of w_m D_m / r_m

with D_m / r_m the differences of x_0 to calls r_m h away from s. The weights w solve sum over m of r_m^(k-1) w_m = b_k,
k = 1, 2, ... (theorem 3.1): the predictor has the earlier calls only, the corrector the call at t (r = 1) too, which
costs nothing, as its output is needed for the next step anyway. B(h) is h (bh1) or e^h - 1 (bh2), here of -h.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from sfmobile.bundle.samplers import UniPCRecord
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.dpm_solver import Point
from sfmobile.sampling.samplers.prediction import denoised
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import solver_levels


@dataclass(frozen=True)
class _Step:
    """The last predictor's step, for the corrector: where it began, its index and order."""

    latents: np.ndarray
    index: int
    order: int


class UniPC(Sampler):
    """One network call a step."""

    def __init__(self, record: UniPCRecord, steps: int, noise: Noise) -> None:
        visited = solver_levels(record, steps, record.sigma_schedule, record.final_sigma)
        super().__init__(visited.timesteps, noise)
        self.record = record
        sigmas = [float(sigma) for sigma in visited.sigmas]
        if record.sigma_schedule != "timesteps" and record.final_sigma == "sigma_min":
            sigmas[-1] = sigmas[-2]  # as diffusers has it, also in a run of one step
        self.points = [Point.at(sigma) for sigma in sigmas]
        self._denoised: deque[np.ndarray] = deque(maxlen=record.solver_order)
        self._last: _Step | None = None

    def order(self) -> int:
        """Of this call's step, `_denoised` holding its output: fewer at both ends of the run."""
        order = min(self.record.solver_order, len(self._denoised))
        if self.record.lower_order_final:
            order = min(order, self.calls - self.index)
        # Without noise at its end lambda is infinite there; a curve that ends at the last level goes nowhere from it.
        # Differences in lambda mean nothing then.
        here, end = self.points[self.index : self.index + 2]
        return 1 if end.sigma in (0, here.sigma) else order

    def _amplitudes(self) -> tuple[float, float]:
        here = self.points[self.index]
        return here.alpha, here.sigma

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        here = self.points[self.index]
        clean = denoised(self.record.prediction_type, output, x, here.alpha, here.sigma)
        if self._last is not None and self._last.index not in self.record.disable_corrector:
            x = self._update(self._last, clean)
        self._denoised.append(clean)
        self._last = _Step(x, self.index, self.order())
        return Prediction(self._update(self._last, None), clean)

    def _update(self, step: _Step, reached: np.ndarray | None) -> np.ndarray:
        """The predictor's step, or the corrector's with x_0 of the call that the step reached."""
        start, end = self.points[step.index], self.points[step.index + 1]
        h = start.lambda_ - end.lambda_  # of the paper's, the negative: the network predicts x_0
        base = self._denoised[-1]
        latents = (end.sigma / start.sigma) * step.latents - (end.alpha * math.expm1(h)) * base
        ratios, differences = [], []
        for age in range(1, step.order):
            ratios.append((self.points[step.index - age].lambda_ - start.lambda_) / -h)
            differences.append((self._denoised[-1 - age] - base) / ratios[-1])
        if reached is not None:
            ratios.append(1.0)
            differences.append(reached - base)
        if not differences:
            return latents
        scale = -end.alpha * (h if self.record.solver_type == "bh1" else math.expm1(h))
        for weight, difference in zip(self._weights(ratios, h), differences, strict=True):
            latents = latents + (scale * weight) * difference
        return latents

    def _weights(self, ratios: list[float], h: float) -> list[float]:
        """w of the differences at those ratios. A single one is 1/2, the paper's own simplification (appendix F)."""
        count = len(ratios)
        if count == 1:
            return [0.5]
        whole = h if self.record.solver_type == "bh1" else math.expm1(h)
        right, phi, factorial = [], math.expm1(h) / h - 1.0, 1.0
        for k in range(1, count + 1):
            right.append(phi * factorial / whole)
            factorial *= k + 1
            phi = phi / h - 1.0 / factorial
        return [float(weight) for weight in np.linalg.solve(np.vander(ratios, increasing=True).T, right)]
