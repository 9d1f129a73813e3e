"""DPM-Solver++ (arXiv 2211.01095), multistep and singlestep, as an ODE and as an SDE.

In lambda = log(alpha / sigma) the probability flow of a network that predicts x_0 has the exact solution

    x_t = sigma_t / sigma_s x_s + sigma_t integral from lambda_s to lambda_t of e^lambda x_0(lambda) dlambda

(equation 8; alpha and sigma are the amplitudes of signal and noise). The solvers replace x_0(lambda) by its Taylor
polynomial at s, whose integrals have closed forms in h = lambda_t - lambda_s, and its derivatives by differences D of
the x_0 of other calls. The SDE variant (its appendix, and equation 19) takes twice the drift and adds noise:

    x_t = sigma_t / sigma_s e^-h x_s + alpha_t (1 - e^-2h) x_0 + ... + sigma_t sqrt(1 - e^-2h) z
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfmobile.sampling.samplers.prediction import powers


@dataclass(frozen=True)
class Point:
    """A noise level as the solvers see it: amplitudes of signal and noise, and lambda (infinite without noise)."""

    alpha: float
    sigma: float
    lambda_: float

    @classmethod
    def at(cls, level: float) -> Point:
        """The point of a noise level."""
        alpha, sigma = powers(level)
        return cls(alpha, sigma, math.inf if level == 0 else -math.log(level))


@dataclass(frozen=True)
class Update:
    """One step from `start` to `end`: the factors of latents, of x_0 and its differences, and of noise."""

    start: Point
    end: Point
    stochastic: bool
    solver_type: Literal["midpoint", "heun"]

    @property
    def h(self) -> float:
        """The step's length in lambda."""
        return self.end.lambda_ - self.start.lambda_

    @property
    def latents(self) -> float:
        """Of the latents: sigma_t / sigma_s, and e^-h more in the SDE."""
        carried = self.end.sigma / self.start.sigma
        return carried * math.exp(-self.h) if self.stochastic else carried

    @property
    def first(self) -> float:
        """Of x_0: alpha_t (1 - e^-h), or with 2 h."""
        return -self.end.alpha * math.expm1(-self._span)

    @property
    def second(self) -> float:
        """Of the first difference: half the former (midpoint), or the exact integral (heun)."""
        if self.solver_type == "midpoint":
            return 0.5 * self.first
        return self._exact_second

    @property
    def _exact_second(self) -> float:
        return self.end.alpha * (math.expm1(-self._span) / self._span + 1.0)

    @property
    def third(self) -> tuple[float, float]:
        """Of the first and second difference in a step of third order."""
        span = self._span
        return self._exact_second, -self.end.alpha * ((math.expm1(-span) + span) / span**2 - 0.5)

    @property
    def noise(self) -> float:
        """Of the noise."""
        return self.end.sigma * math.sqrt(-math.expm1(-2.0 * self.h)) if self.stochastic else 0.0

    @property
    def _span(self) -> float:
        return 2.0 * self.h if self.stochastic else self.h


def first_order(update: Update, x: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """DDIM's step, without the noise."""
    return update.latents * x + update.first * denoised


def second_order(update: Update, x: np.ndarray, denoised: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """With the first difference of x_0 in lambda, times h."""
    return first_order(update, x, denoised) + update.second * difference
