"""What a network's output says of latents x = alpha x_0 + sigma e: the denoised x_0 and the noise e.

epsilon:       the output is e,   x_0 = (x - sigma e) / alpha
v_prediction:  v = alpha e - sigma x_0 (arXiv 2202.00512), so x_0 = alpha x - sigma v, e = sigma x + alpha v
sample:        the output is x_0, e = (x - alpha x_0) / sigma

Each for a variance-preserving process (alpha^2 + sigma^2 = 1); `denoised_in_levels` for latents divided by alpha,
x = x_0 + sigma e with a noise level sigma of any size. Factors are Python floats: arrays stay float32.
"""

from __future__ import annotations

import math

import numpy as np

from sfmobile.bundle.samplers import PredictionType


def powers(sigma: float) -> tuple[float, float]:
    """Amplitudes alpha and sigma of signal and noise at a noise level, their squares adding up to 1."""
    alpha = 1.0 / math.sqrt(sigma * sigma + 1.0)
    return alpha, sigma * alpha


def denoised(kind: PredictionType, output: np.ndarray, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """x_0 of variance-preserving latents."""
    if kind == "epsilon":
        return (x - sigma * output) / alpha
    if kind == "v_prediction":
        return alpha * x - sigma * output
    return output


def noise(kind: PredictionType, output: np.ndarray, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """e of variance-preserving latents."""
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha * output + sigma * x
    return (x - alpha * output) / sigma


def denoised_in_levels(kind: PredictionType, output: np.ndarray, x: np.ndarray, sigma: float) -> np.ndarray:
    """x_0 of latents x_0 + sigma e; a network's v is that of the latents scaled to variance 1."""
    if kind == "epsilon":
        return x - sigma * output
    if kind == "v_prediction":
        alpha, amplitude = powers(sigma)
        return (alpha * alpha) * x - amplitude * output
    return output
