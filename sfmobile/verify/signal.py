"""How close two arrays are, as reports say it."""

from __future__ import annotations

import math

import numpy as np

from sfmobile.bench.verify_report import Agreement
from sfmobile.signal import psnr


def agreement(reference: np.ndarray, result: np.ndarray, peak: float | None = None) -> Agreement:
    """`psnr` with what it doesn't say: the greatest error, and how many values are NaN or infinite on either side."""
    ratio = psnr(reference, result, peak)
    finite = bool(np.isfinite(ratio) or math.isinf(ratio))
    difference = np.abs(np.asarray(reference, np.float64) - np.asarray(result, np.float64)) if finite else None
    return Agreement(
        psnr_db=ratio if math.isfinite(ratio) else None,
        identical=ratio == math.inf,
        max_abs_error=None if difference is None else float(difference.max()),
        nonfinite=int(np.count_nonzero(~(np.isfinite(reference) & np.isfinite(result)))),
    )
