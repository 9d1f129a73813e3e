"""How close two arrays are, in decibels."""

from __future__ import annotations

import math

import numpy as np


def psnr(reference: np.ndarray, result: np.ndarray, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio of `result` against `reference`, in dB, computed in float64.

        20 log10(peak / sqrt(mean((reference - result)^2)))

    peak: the greatest magnitude of the reference, as published Core ML conversions are gated
    (apple/ml-stable-diffusion), or a fixed one such as 255 for 8-bit pictures. Identical arrays give inf. A NaN or
    infinity on either side gives nan: it has no distance, and must not look like a figure. An all-zero reference
    with a result that isn't gives -inf.

    Raises ValueError where the shapes differ: broadcasting would compare something else.
    """
    if reference.shape != result.shape:
        raise ValueError(f"expected the reference's shape {reference.shape}, found {result.shape}")
    if reference.size == 0:
        raise ValueError("an empty array has no PSNR")
    expected = np.asarray(reference, dtype=np.float64)
    found = np.asarray(result, dtype=np.float64)
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return math.nan
    error = math.sqrt(float(np.mean(np.square(expected - found))))
    signal = float(np.abs(expected).max()) if peak is None else peak
    if error == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 20 * math.log10(signal / error)
