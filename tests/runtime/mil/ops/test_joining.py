"""Concatenation, stacking, splitting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=(3, 4, 6)).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_joins_along_the_axis(axis: int) -> None:
    assert_matches(lambda a, b: mb.concat(values=(a, b, a), axis=axis), np.concatenate([X, Y, X], axis), X, Y)


def test_concat_of_one_value_is_that_value() -> None:
    assert_matches(lambda a: mb.concat(values=(a,), axis=1), X, X)


def test_concat_takes_a_constant_among_its_values() -> None:
    ones = np.ones((3, 1, 6), dtype=np.float32)
    assert_matches(lambda a: mb.concat(values=(a, ones), axis=1), np.concatenate([X, ones], 1), X)


def test_interleaved_concat_takes_rows_in_turn() -> None:
    expected = np.empty((3, 8, 6), dtype=np.float32)
    expected[:, 0::2], expected[:, 1::2] = X, Y
    assert_matches(lambda a, b: mb.concat(values=(a, b), axis=-2, interleave=True), expected, X, Y)


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_stack_adds_an_axis(axis: int) -> None:
    assert_matches(lambda a, b: mb.stack(values=(a, b), axis=axis), np.stack([X, Y], axis), X, Y)


def test_split_into_equal_parts_and_into_sizes() -> None:
    x = torch.from_numpy(X)
    assert_matches(lambda a: mb.split(x=a, num_splits=3, axis=2), x.split(2, 2), X)
    assert_matches(lambda a: mb.split(x=a, split_sizes=[1, 3], axis=-2), x.split([1, 3], 1), X)
    assert_matches(lambda a: mb.split(x=a, num_splits=2, split_sizes=[1, 3], axis=1), x.split([1, 3], 1), X)
