"""Reductions against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(0.2, 1.5, size=(2, 3, 4, 5)).astype(np.float32)
I = RANDOM.integers(-9, 9, size=(2, 3, 4)).astype(np.int32)  # noqa: E741

FLOATS: dict[str, Callable[..., np.ndarray]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum_square": lambda v, **over: np.sum(v**2, **over),
    "reduce_l1_norm": lambda v, **over: np.sum(np.abs(v), **over),
    "reduce_l2_norm": lambda v, **over: np.sqrt(np.sum(v**2, **over)),
    "reduce_log_sum": lambda v, **over: np.log(np.sum(v, **over)),
    "reduce_log_sum_exp": lambda v, **over: np.log(np.sum(np.exp(v), **over)),
}


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("axes", [None, (1,), (-1,), (1, -2), (0, 2, 3)])
@pytest.mark.parametrize("kind", FLOATS)
def test_reduction_matches_numpy(kind: str, axes: tuple[int, ...] | None, keep_dims: bool) -> None:
    expected = FLOATS[kind](X, axis=axes, keepdims=keep_dims)
    attributes = {} if axes is None else {"axes": list(axes)}
    body = lambda a: getattr(mb, kind)(x=a, keep_dims=keep_dims, **attributes)  # noqa: E731
    assert_matches(body, expected, X, tolerance=1e-4)


@pytest.mark.parametrize("kind", ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum_square"])
def test_integers_stay_integers(kind: str) -> None:
    expected = FLOATS[kind](I.astype(np.int64), axis=(0, 2)).astype(np.int32)
    assert_matches(lambda a: getattr(mb, kind)(x=a, axes=[0, 2]), expected, I)


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("axis", [0, -1, 2])
@pytest.mark.parametrize(("kind", "oracle"), [("reduce_argmax", np.argmax), ("reduce_argmin", np.argmin)])
def test_index_of_the_extreme(kind: str, oracle: Callable[..., np.ndarray], axis: int, keep_dims: bool) -> None:
    expected = oracle(X, axis=axis, keepdims=keep_dims).astype(np.int32)
    assert_matches(lambda a: getattr(mb, kind)(x=a, axis=axis, keep_dims=keep_dims), expected, X)


def test_log_sum_exp_doesnt_overflow() -> None:
    large = np.full((2, 3), 500.0, dtype=np.float32)
    assert_matches(lambda a: mb.reduce_log_sum_exp(x=a, axes=[1]), np.full(2, 500 + np.log(3)), large)
