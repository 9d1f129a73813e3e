"""Gathers against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil.ops.defs._utils import compute_gather

from sfmobile.errors import ArtifactError
from tests.runtime.mil.programs import assert_matches, evaluate

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("shape", [(7,), (2, 3)])
def test_gather_takes_rows_of_an_axis(axis: int, shape: tuple[int, ...]) -> None:
    indices = RANDOM.integers(-3, 3, shape).astype(np.int32)
    assert_matches(lambda a, b: mb.gather(x=a, indices=b, axis=axis), np.take(X, indices, axis), X, indices)


def test_gather_of_a_scalar_index_drops_the_axis() -> None:
    assert_matches(lambda a: mb.gather(x=a, indices=2, axis=1), X[:, 2], X)


@pytest.mark.parametrize(("axis", "batch_dims"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_gather_with_batch_axes(axis: int, batch_dims: int) -> None:
    indices = RANDOM.integers(0, 4, (*X.shape[:batch_dims], 2, 3)).astype(np.int32)
    expected = compute_gather(X, indices, axis, batch_dims)
    body = lambda a, b: mb.gather(x=a, indices=b, axis=axis, batch_dims=batch_dims)  # noqa: E731
    assert_matches(body, expected, X, indices)


@pytest.mark.parametrize("target", ["ios16", "ios17", "ios18"])
def test_gather_embeds_token_ids_with_every_opset(target: str) -> None:
    table = RANDOM.normal(size=(50, 8)).astype(np.float32)
    ids = RANDOM.integers(0, 50, (1, 7)).astype(np.int32)
    assert_matches(lambda a: mb.gather(x=table, indices=a, axis=0), table[ids], ids, target=target)


def test_gather_beyond_the_end_is_an_error_that_names_the_operation() -> None:
    with pytest.raises(ArtifactError, match=r"'rows' \(gather\).*out of range.*look at the inputs"):
        evaluate(lambda a, b: mb.gather(x=a, indices=b, axis=0, name="rows"), X, np.array([3], dtype=np.int32))


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_gather_along_axis_takes_one_element_each(axis: int) -> None:
    shape = list(X.shape)
    shape[axis] = 7
    indices = RANDOM.integers(-3, 3, shape).astype(np.int32)
    wrapped = np.where(indices < 0, indices + X.shape[axis], indices)
    body = lambda a, b: mb.gather_along_axis(x=a, indices=b, axis=axis)  # noqa: E731
    assert_matches(body, np.take_along_axis(X, wrapped, axis), X, indices)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_gather_nd_takes_slices(depth: int) -> None:
    indices = RANDOM.integers(0, 3, (2, 5, depth)).astype(np.int32)
    expected = X[tuple(np.moveaxis(indices, -1, 0))]
    assert_matches(lambda a, b: mb.gather_nd(x=a, indices=b), expected, X, indices)


def test_gather_nd_with_a_batch_axis() -> None:
    indices = RANDOM.integers(0, 4, (3, 2, 2)).astype(np.int32)
    expected = np.stack([X[b][indices[b][:, 0], indices[b][:, 1]] for b in range(3)])
    assert_matches(lambda a, b: mb.gather_nd(x=a, indices=b, batch_dims=1), expected, X, indices)
