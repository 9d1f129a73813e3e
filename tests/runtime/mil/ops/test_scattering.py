"""Scatters against numpy's unbuffered updates."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.errors import ArtifactError
from tests.runtime.mil.programs import assert_matches, evaluate

RANDOM = np.random.default_rng(0)
DATA = RANDOM.uniform(0.5, 2, size=(3, 4, 5)).astype(np.float32)
UFUNCS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
MODES = ["update", *UFUNCS]


def updated(place: tuple[object, ...], updates: np.ndarray, mode: str) -> np.ndarray:
    result = DATA.copy()
    if mode == "update":
        result[place] = updates
    else:
        UFUNCS[mode].at(result, place, updates)
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_combines_slices(axis: int, mode: str) -> None:
    indices = np.array([2, 0, -1] if mode == "update" and axis else [2, 0, 2], dtype=np.int32)
    if mode == "update":
        indices = np.array([2, 0], dtype=np.int32)
    shape = list(DATA.shape)
    shape[axis] = len(indices)
    updates = RANDOM.uniform(0.5, 2, size=shape).astype(np.float32)
    place: list[object] = [slice(None)] * 3
    place[axis] = indices
    body = lambda d, i, u: mb.scatter(data=d, indices=i, updates=u, axis=axis, mode=mode)  # noqa: E731
    assert_matches(body, updated(tuple(place), updates, mode), DATA, indices, updates)


@pytest.mark.parametrize("mode", MODES)
def test_scatter_along_axis_combines_elements(mode: str) -> None:
    indices = np.argsort(RANDOM.random((3, 4, 5)), axis=1)[:, :3].astype(np.int32)
    updates = RANDOM.uniform(0.5, 2, size=indices.shape).astype(np.float32)
    first, _, third = np.indices(indices.shape)
    expected = updated((first, indices, third), updates, mode)
    body = lambda d, i, u: mb.scatter_along_axis(data=d, indices=i, updates=u, axis=1, mode=mode)  # noqa: E731
    assert_matches(body, expected, DATA, indices, updates)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd_combines_slices_named_by_rows(depth: int, mode: str) -> None:
    rows = [(0, 1, 2), (2, 3, 4), (1, 0, 0)] if mode == "update" else [(0, 1, 2), (2, 3, 4), (0, 1, 2)]
    indices = np.array(rows, dtype=np.int32)[:, :depth]
    updates = RANDOM.uniform(0.5, 2, size=(3, *DATA.shape[depth:])).astype(np.float32)
    expected = updated(tuple(indices.T), updates, mode)
    body = lambda d, i, u: mb.scatter_nd(data=d, indices=i, updates=u, mode=mode)  # noqa: E731
    assert_matches(body, expected, DATA, indices, updates)


@pytest.mark.parametrize(("index", "validate"), [(7, False), (7, True), (-1, True)])
def test_scatter_nd_refuses_an_index_that_would_be_another_element(index: int, validate: bool) -> None:
    data, updates = np.zeros((3, 4), np.float32), np.ones(1, np.float32)
    body = lambda a, i, u: mb.scatter_nd(data=a, indices=i, updates=u, validate_indices=validate)  # noqa: E731
    with pytest.raises(ArtifactError, match=rf"has the index {index} for an axis of 4"):
        evaluate(body, data, np.array([[0, index]], np.int32), updates, target="ios17")
