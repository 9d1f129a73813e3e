"""Sinusoids of timestep and guidance scale, computed by the host: in an fp16 graph the sine at 981 is off by 0.27."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.errors import UsageError


def frequencies(record: TimeEmbeddingRecord) -> np.ndarray:
    """What a timestep is multiplied by for each sine and cosine, float32 (dimension / 2,)."""
    if record.dimension % 2:
        raise UsageError(f"A time embedding of {record.dimension} values has no two halves; use an even dimension.")
    half = record.dimension // 2
    # fp32 exponents, frequencies and angles in torch's order: at t = 999 another rounding moves a sine by 1e-4. Each
    # function is evaluated in double precision and rounded once, so that every machine, and Swift, has the same bits.
    exponent = np.float32(-np.log(record.max_period)) * np.arange(half, dtype=np.float32)
    exponent /= np.float32(half - record.frequency_shift)
    found: np.ndarray = np.exp(exponent.astype(np.float64)).astype(np.float32)
    return found


def sinusoid(timesteps: Sequence[float] | np.ndarray, record: TimeEmbeddingRecord) -> np.ndarray:
    """Embed timesteps (B,) as float32 (B, dimension, 1, 1).

    Entry i of each half is sin or cos of t * max_period^(-i / (dimension / 2 - frequency_shift)) (arXiv 1706.03762,
    section 3.5); cosines come first if `flip_sin_to_cos`. diffusers' `get_timestep_embedding`.
    """
    angles = (np.asarray(timesteps, np.float32)[:, None] * frequencies(record)[None, :]).astype(np.float64)
    parts = (np.cos(angles), np.sin(angles)) if record.flip_sin_to_cos else (np.sin(angles), np.cos(angles))
    return np.expand_dims(np.concatenate(parts, axis=1).astype(np.float32), (2, 3))


def guidance_sinusoid(scale: float, dimension: int) -> np.ndarray:
    """Embed a guidance scale as float32 (1, dimension, 1, 1), for a UNet that takes it as an input.

    The sinusoid of 1000 times w = scale - 1, sines first, as the consistency distillation was trained with it (arXiv
    2310.04378, section 4.3). diffusers' `get_guidance_scale_embedding`.
    """
    record = TimeEmbeddingRecord(dimension=dimension, flip_sin_to_cos=False, frequency_shift=1.0)
    return sinusoid(np.array([scale - 1], np.float32) * np.float32(1000.0), record)
