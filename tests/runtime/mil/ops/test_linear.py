"""Matrix products against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_linear_with_and_without_bias(shape: tuple[int, ...]) -> None:
    x, weight, bias = normal(*shape), normal(4, 5), normal(4)
    assert_matches(lambda a: mb.linear(x=a, weight=weight), x @ weight.T, x)
    assert_matches(lambda a: mb.linear(x=a, weight=weight, bias=bias), x @ weight.T + bias, x)


def test_linear_of_integers() -> None:
    x, weight = RANDOM.integers(-5, 5, (3, 5)).astype(np.int32), RANDOM.integers(-5, 5, (4, 5)).astype(np.int32)
    bias = np.arange(4, dtype=np.int32)
    assert_matches(lambda a: mb.linear(x=a, weight=weight, bias=bias), x @ weight.T + bias, x)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    drop=st.integers(0, 2),
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    transpose_x=st.booleans(),
    transpose_y=st.booleans(),
)
def test_matmul_matches_numpy(
    batch: list[int], drop: int, sizes: tuple[int, int, int], transpose_x: bool, transpose_y: bool
) -> None:
    rows, inner, columns = sizes
    x, y = normal(*batch, rows, inner), normal(*batch[drop:], inner, columns)
    expected = x @ y
    fed_x = x.swapaxes(-1, -2).copy() if transpose_x else x
    fed_y = y.swapaxes(-1, -2).copy() if transpose_y else y
    body = lambda a, b: mb.matmul(x=a, y=b, transpose_x=transpose_x, transpose_y=transpose_y)  # noqa: E731
    assert_matches(body, expected, fed_x, fed_y)


def test_matmul_of_a_vector_and_of_integers() -> None:
    x, y = normal(4), normal(4, 3)
    assert_matches(lambda a, b: mb.matmul(x=a, y=b), x @ y, x, y)
    i, j = RANDOM.integers(-5, 5, (3, 4)).astype(np.int32), RANDOM.integers(-5, 5, (4, 2)).astype(np.int32)
    assert_matches(lambda a, b: mb.matmul(x=a, y=b), i @ j, i, j)


@pytest.mark.parametrize(
    ("equation", "x_shape", "y_shape"),
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
        ("bchq,bkhc->bkhq", (2, 5, 1, 7), (2, 6, 1, 5)),
        ("nchw,nwhu->nchu", (1, 3, 1, 5), (2, 5, 4, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
        ("chw,whr->chr", (3, 1, 5), (5, 4, 6)),
    ],
)
def test_einsum_multiplies_and_broadcasts(equation: str, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    x, y = normal(*x_shape), normal(*y_shape)
    if equation.startswith("bchq"):
        # Attention's first product, in the order of operands that MIL takes.
        equation, x, y = "bkhc,bchq->bkhq", y, x
    wide = [max(a, b) for a, b in zip(x.shape, y.shape, strict=True)]
    broadcast = [axis for axis in (0, 2) if len(wide) == 4] or [1]
    full_x, full_y = (
        np.broadcast_to(v, [wide[a] if a in broadcast else s for a, s in enumerate(v.shape)]) for v in (x, y)
    )
    expected = np.einsum(equation, full_x, full_y)
    assert_matches(lambda a, b: mb.einsum(values=(a, b), equation=equation), expected, x, y)


@pytest.mark.parametrize("first", [np.int32, np.float32])
def test_a_product_of_whole_numbers_and_floats_has_the_type_of_the_input(first: type) -> None:
    second = np.float32 if first is np.int32 else np.int32
    x, weight = np.arange(6).reshape(2, 3).astype(first), np.arange(12).reshape(4, 3).astype(second)
    linear = lambda a: mb.linear(x=a, weight=weight, bias=np.arange(4).astype(second))  # noqa: E731
    assert_matches(linear, (x @ weight.T + np.arange(4)).astype(first), x, target="ios17")
    matmul = lambda a: mb.matmul(x=a, y=weight, transpose_y=True)  # noqa: E731
    assert_matches(matmul, (x @ weight.T).astype(first), x, target="ios17")
