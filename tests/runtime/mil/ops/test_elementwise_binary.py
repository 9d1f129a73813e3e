"""Binary elementwise ops against numpy, with broadcasting, on floats and integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)

ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_div": np.floor_divide,
    "mod": np.mod,
}
COMPARISONS = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}
LOGIC = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}


def operands(kind: type, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if kind is np.int32:
        y = RANDOM.integers(1, 5, y_shape) * RANDOM.choice([-1, 1], y_shape)
        return RANDOM.integers(-20, 20, x_shape).astype(kind), y.astype(kind)
    return RANDOM.normal(size=x_shape).astype(kind), RANDOM.normal(size=y_shape).astype(kind)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize(("kind", "oracle"), [*ARITHMETIC.items(), *COMPARISONS.items()])
def test_binary_op_matches_numpy(kind: str, oracle: Callable[..., np.ndarray], dtype: type) -> None:
    x, y = operands(dtype, (3, 4, 5), (4, 1))
    x[:, :, 0] = y[None, :, 0]  # Some equal pairs.
    assert_matches(lambda a, b: getattr(mb, kind)(x=a, y=b), oracle(x, y), x, y)


@pytest.mark.parametrize(("kind", "oracle"), LOGIC.items())
def test_logic_matches_numpy(kind: str, oracle: Callable[..., np.ndarray]) -> None:
    x, y = RANDOM.random((3, 4)) > 0.5, RANDOM.random((1, 4)) > 0.5
    assert_matches(lambda a, b: getattr(mb, kind)(x=a, y=b), oracle(x, y), x, y)


def test_real_div_of_floats_and_of_integers_towards_zero() -> None:
    x, y = operands(np.float32, (3, 4), (3, 4))
    assert_matches(lambda a, b: mb.real_div(x=a, y=b), x / y, x, y)
    i, j = operands(np.int32, (30,), (30,))
    assert_matches(lambda a, b: mb.real_div(x=a, y=b), np.trunc(i / j).astype(np.int32), i, j)


def test_pow_of_floats_and_integers() -> None:
    x = RANDOM.random((3, 4)).astype(np.float32) + 0.1
    y = RANDOM.normal(size=(4,)).astype(np.float32)
    assert_matches(lambda a, b: mb.pow(x=a, y=b), x**y, x, y)
    i, j = RANDOM.integers(-3, 3, 9).astype(np.int32), RANDOM.integers(0, 4, 9).astype(np.int32)
    assert_matches(lambda a, b: mb.pow(x=a, y=b), i**j, i, j)


def test_a_constant_operand_on_either_side() -> None:
    x = RANDOM.normal(size=(3, 4)).astype(np.float32)
    assert_matches(lambda a: mb.sub(x=2.0, y=a), 2 - x, x)
    assert_matches(lambda a: mb.sub(x=a, y=np.arange(4, dtype=np.float32)), x - np.arange(4, dtype=np.float32), x)


shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, ones=st.lists(st.booleans(), min_size=4, max_size=4), drop=st.integers(0, 3), swap=st.booleans())
def test_broadcasting_is_numpys(shape: list[int], ones: list[bool], drop: int, swap: bool) -> None:
    other = [1 if one else size for size, one in zip(shape, ones, strict=False)][min(drop, len(shape) - 1) :]
    x, y = operands(np.float32, tuple(shape), tuple(other))
    if swap:
        x, y = y, x
    assert_matches(lambda a, b: mb.sub(x=a, y=b), x - y, x, y)
