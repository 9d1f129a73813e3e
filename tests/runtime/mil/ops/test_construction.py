"""Fills, ranges, orders and sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches, evaluate

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 4, 5)).astype(np.float32)
I = RANDOM.integers(-9, 9, size=(3, 4, 5)).astype(np.int32)  # noqa: E741
x, i = torch.from_numpy(X), torch.from_numpy(I)


@pytest.mark.parametrize("value", [2.5, 7, True])
def test_fill_takes_the_type_of_its_value(value: float) -> None:
    kind = {float: np.float32, int: np.int32, bool: np.bool_}[type(value)]
    assert_matches(
        lambda a: mb.fill(shape=np.array([2, 3], dtype=np.int32), value=kind(value)), np.full((2, 3), value, kind), X
    )


def test_fill_takes_a_computed_shape() -> None:
    assert_matches(lambda a: mb.fill(shape=a, value=1.5), np.full((2, 3), 1.5), np.array([2, 3], dtype=np.int32))


def test_fill_like_takes_the_shape_of_its_reference() -> None:
    assert_matches(lambda a: mb.fill_like(ref_tensor=a, value=3.0), np.full(X.shape, 3.0), X)


def test_range_1d_of_constants_and_of_computed_ends() -> None:
    assert_matches(lambda a: mb.range_1d(start=1, end=9, step=3), np.array([1, 4, 7]), X)
    end = np.array(0.95, dtype=np.float32)
    assert_matches(
        lambda a: mb.range_1d(start=np.float32(0), end=mb.squeeze(x=a), step=np.float32(0.25)),
        np.array([0, 0.25, 0.5, 0.75]),
        end.reshape(1),
    )


def test_shape_gives_int32_sizes() -> None:
    assert_matches(lambda a: mb.shape(x=a), np.array([3, 4, 5]), X)


@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
def test_one_hot_puts_the_new_axis_where_asked(axis: int) -> None:
    indices = np.array([[0, 2], [3, 1]], dtype=np.int32)
    hot = np.eye(4, dtype=np.float32)[indices] * 3.0 + -1.0
    body = lambda a: mb.one_hot(  # noqa: E731
        indices=a, one_hot_vector_size=4, axis=axis, on_value=np.float32(2), off_value=np.float32(-1)
    )
    assert_matches(body, np.moveaxis(hot, -1, axis), indices)


def test_non_zero_lists_indices_row_by_row() -> None:
    values = np.array([[0, 2, 0], [1, 0, 3]], dtype=np.float32)
    assert_matches(lambda a: mb.non_zero(x=a), np.argwhere(values), values)


@pytest.mark.parametrize(("lower", "upper"), [(-1, -1), (0, -1), (-1, 0), (1, 2), (0, 0)])
def test_band_part_keeps_the_band(lower: int, upper: int) -> None:
    rows, columns = np.indices((4, 5))
    keep = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    assert_matches(lambda a: mb.band_part(x=a, lower=lower, upper=upper), X * keep, X)


def test_tile_repeats_each_axis() -> None:
    assert_matches(lambda a: mb.tile(x=a, reps=[2, 1, 3]), np.tile(X, (2, 1, 3)), X)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumsum_inclusive_exclusive_and_backwards(axis: int, exclusive: bool, reverse: bool) -> None:
    ordered = np.flip(I, axis) if reverse else I
    total = ordered.cumsum(axis) - (ordered if exclusive else 0)
    expected = (np.flip(total, axis) if reverse else total).astype(np.int32)
    body = lambda a: mb.cumsum(x=a, axis=axis, exclusive=exclusive, reverse=reverse)  # noqa: E731
    assert_matches(body, expected, I)


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("axis", [-1, 0])
def test_argsort_sorts_along_the_axis(axis: int, ascending: bool) -> None:
    expected = np.argsort(X if ascending else -X, axis=axis).astype(np.int32)
    assert_matches(lambda a: mb.argsort(x=a, axis=axis, ascending=ascending), expected, X)


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
def test_topk_gives_values_and_indices(axis: int, ascending: bool) -> None:
    values, indices = x.topk(3, dim=axis, largest=not ascending)
    body = lambda a: mb.topk(x=a, k=3, axis=axis, ascending=ascending)  # noqa: E731
    assert_matches(body, [values, indices.int()], X)


def test_topk_without_indices_gives_values_alone() -> None:
    found = evaluate(lambda a: mb.topk(x=a, k=2, axis=-1, ascending=False, return_indices=False), X)
    assert len(found) == 1
    np.testing.assert_array_equal(found[0], x.topk(2).values)
