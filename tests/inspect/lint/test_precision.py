from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from sfmobile.inspect.lint.subject import Extremes
from tests.inspect.lint.programs import broken, conv, findings, half


def test_a_float32_island_is_one_finding_at_its_first_operation() -> None:
    def body(x: Any) -> Any:
        wide = mb.cast(x=mb.relu(x=x), dtype="fp32")
        wide = mb.exp(x=mb.sqrt(x=wide, name="first"))
        narrow = mb.relu(x=mb.cast(x=wide, dtype="fp16"))
        again = mb.cast(x=narrow, dtype="fp32")
        return mb.cast(x=mb.exp(x=again, name="second"), dtype="fp16")

    found = findings(body, half(1, 4, 1, 32))
    assert [(finding.rule, finding.operation) for finding in found] == [("float32", "first"), ("float32", "second")]
    assert "2 operations in float32 (sqrt, exp)" in found[0].message


def test_float32_borders_are_notes() -> None:
    wide = half(1, 4, 1, 32).astype(np.float32)
    found = findings(lambda x: mb.cast(x=mb.relu(x=mb.cast(x=x, dtype="fp16")), dtype="fp32"), wide)
    assert [(finding.rule, finding.severity) for finding in found] == [("float32-border", "note")] * 2


def test_integer_arithmetic_is_named_and_look_ups_are_not_mistaken_for_it() -> None:
    def body(ids: Any) -> Any:
        return mb.gather(x=half(10, 32), indices=mb.add(x=ids, y=np.int32(1)), axis=0)

    assert broken(body, np.zeros((1, 4), np.int32)) == {"cpu-operation": 1, "integer-arithmetic": 1}


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_constant_that_is_not_finite_is_an_error(value: float) -> None:
    mask = np.where(np.eye(32) > 0, 0, value).astype(np.float16)
    found = findings(lambda x: mb.add(x=x, y=mask), half(1, 4, 32, 32))
    assert [(finding.rule, finding.severity) for finding in found] == [("infinite-constant", "error")]
    assert "992 infinite or NaN values" in found[0].message


def test_the_masks_of_our_own_exports_are_in_range_and_larger_ones_are_not() -> None:
    def masked(magnitude: float) -> dict[str, int]:
        mask = np.triu(np.full((32, 32), -magnitude), 1).astype(np.float16)
        return broken(lambda x: mb.add(x=x, y=mask), half(1, 4, 32, 32))

    assert masked(3e4) == masked(4e4) == {}
    assert masked(65504) == {"out-of-range-constant": 1}


def squared_norm(x: Any) -> Any:
    mean = mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True)
    centred = mb.sub(x=x, y=mean, name="centred")
    variance = mb.reduce_mean(x=mb.square(x=centred, name="squared"), axes=[2, 3], keep_dims=True)
    return mb.mul(x=centred, y=mb.rsqrt(x=variance))


def test_a_spelled_out_norm_overflows_and_instance_norm_does_not() -> None:
    x = half(1, 8, 4, 32)
    (finding,) = findings(squared_norm, x)
    assert (finding.rule, finding.severity, finding.operation) == ("normalisation-overflow", "warning", "squared")
    assert "of unknown range" in finding.message
    assert broken(lambda x: mb.instance_norm(x=x), x) == {}


@pytest.mark.parametrize(("magnitude", "severity"), [(100.0, None), (200.0, "warning"), (300.0, "error")])
def test_a_recorded_run_decides_whether_a_square_overflows(magnitude: float, severity: str | None) -> None:
    found = findings(squared_norm, half(1, 8, 4, 32), magnitudes={"centred": magnitude})
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])


@pytest.mark.parametrize(("magnitude", "severity"), [(1e4, None), (3e4, "warning"), (7e4, "error")])
def test_a_recorded_run_shows_activations_that_leave_float16(magnitude: float, severity: str | None) -> None:
    def body(x: Any) -> Any:
        return mb.conv(x=x, weight=half(4, 4, 1, 1), name="hot")

    found = findings(body, half(1, 4, 1, 32), magnitudes={"hot": magnitude})
    assert [(finding.rule, finding.severity) for finding in found] == (
        [] if severity is None else [("activation-overflow", severity)]
    )


def test_masked_scores_may_come_near_the_end_of_float16_but_not_reach_it() -> None:
    def body(x: Any) -> Any:
        return mb.softmax(x=mb.add(x=x, y=np.float16(-3e4), name="masked"), axis=1)

    for magnitude, count in ((3.1e4, 0), (6.6e4, 1)):
        found = broken(body, half(1, 32, 1, 32), magnitudes={"masked": magnitude})
        assert found.get("activation-overflow", 0) == count


def test_scaling_scores_behind_their_product_is_noted_and_scaling_queries_is_not() -> None:
    def late(q: Any, k: Any) -> Any:
        scores = mb.mul(x=mb.einsum(values=(k, q), equation="nchw,nwhu->nchu"), y=np.float16(0.125))
        return mb.softmax(x=scores, axis=1)

    def early(q: Any, k: Any) -> Any:
        scores = mb.einsum(values=(k, mb.mul(x=q, y=np.float16(0.125))), equation="nchw,nwhu->nchu")
        return mb.softmax(x=scores, axis=1)

    q, k = half(1, 32, 1, 32), half(1, 32, 1, 32)
    assert broken(late, q, k) == {"late-attention-scale": 1}
    assert broken(early, q, k) == {}


def test_a_projection_scaled_by_a_constant_is_no_attention() -> None:
    assert broken(lambda x: mb.mul(x=conv(x, 4), y=np.float16(2)), half(1, 4, 1, 32)) == {}


@given(st.lists(st.floats(width=16, allow_nan=True, allow_infinity=True), min_size=1, max_size=40))
def test_extremes_agree_with_numpy_on_any_float16_values(values: list[float]) -> None:
    for array in (np.array(values, np.float16), np.array(values, np.float32), np.array(values, np.float64)):
        finite = array[np.isfinite(array)]
        expected = float(np.abs(finite).max()) if finite.size else 0.0
        assert Extremes.of(array) == Extremes(expected, int(array.size - finite.size))
