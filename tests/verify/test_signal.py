from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sfmobile.verify.signal import agreement, psnr

FINITE = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32))


def test_psnr_matches_the_published_gates_formula() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
    result = reference + 1e-2 * rng.standard_normal(reference.shape).astype(np.float32)
    # compute_psnr of apple/ml-stable-diffusion, without its epsilons.
    error = np.sqrt(((reference - result).astype(np.float64) ** 2).sum() / result.size)
    assert psnr(reference, result) == pytest.approx(20 * np.log10(np.abs(reference).max() / error), abs=1e-6)


def test_an_eight_bit_picture_off_by_one_everywhere_is_48_dB() -> None:
    black = np.zeros((4, 4, 3), dtype=np.uint8)
    assert psnr(black, black + 1, peak=255) == pytest.approx(20 * math.log10(255))


@given(FINITE, st.floats(1e-3, 1e3))
def test_psnr_does_not_depend_on_the_unit(values: np.ndarray, scale: float) -> None:
    result = values + np.float32(0.5)
    expected = psnr(values, result)
    scaled = psnr(values.astype(np.float64) * scale, result.astype(np.float64) * scale)
    assert scaled == pytest.approx(expected, rel=1e-6) or (math.isinf(scaled) and math.isinf(expected))


@given(FINITE)
def test_identical_arrays_are_infinitely_close_and_pass_any_gate(values: np.ndarray) -> None:
    found = agreement(values, values.copy())
    assert psnr(values, values) == math.inf
    assert found.identical and found.psnr_db is None and found.reaches(1e9)
    assert str(found) == "identical"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail_every_gate_and_are_counted(bad: float) -> None:
    reference = np.ones(10, dtype=np.float16)
    result = reference.copy()
    result[[3, 5]] = bad
    found = agreement(reference, result)
    assert math.isnan(psnr(reference, result))
    assert found.nonfinite == 2 and found.psnr_db is None and not found.identical
    assert not found.reaches(-1e9)
    assert str(found) == "2 values NaN or infinite"


def test_a_broken_reference_is_no_agreement_even_if_the_result_is_equally_broken() -> None:
    broken = np.array([1.0, np.inf], dtype=np.float32)
    assert not agreement(broken, broken.copy()).reaches(0)


def test_fp16_inputs_do_not_overflow_the_measure() -> None:
    reference = np.full(4, 60000, dtype=np.float16)
    assert psnr(reference, np.zeros(4, dtype=np.float16)) == pytest.approx(0.0)


def test_a_silent_reference_has_no_signal() -> None:
    assert psnr(np.zeros(3), np.ones(3)) == -math.inf
    assert not agreement(np.zeros(3), np.ones(3)).reaches(-1e9)


def test_shapes_must_be_equal_not_broadcastable() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        psnr(np.zeros((2, 3)), np.zeros((1, 3)))
