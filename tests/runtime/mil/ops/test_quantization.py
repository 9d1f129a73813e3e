"""Quantised activations against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches

X = np.random.default_rng(0).normal(scale=40, size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantize_and_dequantize_round_clip_and_scale(dtype: str, per_channel: bool) -> None:
    scale = np.array([0.5, 1.0, 2.0] if per_channel else 0.7, dtype=np.float32)
    zero = np.array([1, 2, 3] if per_channel else 4, dtype=dtype)
    axis = {"axis": 1} if per_channel else {}
    wide_scale, wide_zero = (v.reshape(1, 3, 1) if per_channel else v for v in (scale, zero.astype(np.float32)))
    limits = np.iinfo(dtype)
    quantized = np.clip(np.round(X / wide_scale) + wide_zero, limits.min, limits.max)

    def body(a: object) -> object:
        q = mb.quantize(input=a, zero_point=zero, scale=scale, output_dtype=dtype, **axis)
        return mb.cast(x=q, dtype="int32"), mb.dequantize(input=q, zero_point=zero, scale=scale, **axis)

    expected = [quantized.astype(np.int32), ((quantized - wide_zero) * wide_scale).astype(np.float32)]
    assert_matches(body, expected, X, target="ios17")


def test_the_zero_point_is_zero_unless_given() -> None:
    scale = np.float32(0.5)

    def body(a: object) -> object:
        return mb.dequantize(input=mb.quantize(input=a, scale=scale, output_dtype="int8"), scale=scale)

    assert_matches(body, np.clip(np.round(X / scale), -128, 127) * scale, X, target="ios17")
