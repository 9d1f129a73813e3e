"""Reshapes, transposes and rearrangements."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.runtime.mil.programs import assert_matches

X = np.random.default_rng(0).normal(size=(2, 8, 4, 6)).astype(np.float32)
x = torch.from_numpy(X)


@pytest.mark.parametrize("shape", [(16, 24), (-1,), (0, -1, 6), (2, 0, 24)])
def test_reshape_infers_minus_one(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        # With as many axes as x, a zero keeps the size at its place.
        wanted = X[:, :, 0].reshape(2, 8, 6)
        shape = (0, -1, 6)
        assert_matches(lambda a: mb.reshape(x=a, shape=shape), wanted, X[:, :, 0].copy())
    else:
        assert_matches(lambda a: mb.reshape(x=a, shape=shape), X.reshape(shape), X)


def test_reshape_zeros_count_from_the_right_since_ios17() -> None:
    values = np.arange(100, dtype=np.float32).reshape(2, 50)
    body = lambda a: mb.reshape(x=a, shape=[1, 0, -1, 0])  # noqa: E731
    assert_matches(body, values.reshape(1, 1, 2, 50), values, target="ios17")


def test_reshape_to_a_computed_shape() -> None:
    assert_matches(lambda a, s: mb.reshape(x=a, shape=s), X.reshape(8, 48), X, np.array([8, 48], dtype=np.int32))


def test_reshape_like_joins_parts_of_shapes() -> None:
    first, second = np.zeros((2, 3, 4), dtype=np.float32), np.zeros((1, 16, 1), dtype=np.float32)
    values = np.arange(96, dtype=np.float32)
    body = lambda a, f, s: mb.reshape_like(  # noqa: E731
        x=a, ref_tensors=(f, s), begins=(1, 1), ends=(2, 0), end_masks=(False, True)
    )
    values = values[:48]
    assert_matches(body, values.reshape(3, 16, 1), values, first, second)


@pytest.mark.parametrize("axis", [0, 1, -1, 3])
def test_flatten2d(axis: int) -> None:
    columns = int(np.prod(X.shape[axis:]))
    assert_matches(lambda a: mb.flatten2d(x=a, axis=axis), X.reshape(-1, columns), X)


@pytest.mark.parametrize("axes", [[0], [-1], [1, 3], [0, -1]])
def test_expand_dims_and_squeeze_are_inverse(axes: list[int]) -> None:
    values = X[0, 0]
    expanded = np.expand_dims(values, tuple(axes))
    assert_matches(lambda a: mb.expand_dims(x=a, axes=axes), expanded, values)
    assert_matches(lambda a: mb.squeeze(x=a, axes=axes), values, expanded)


def test_squeeze_leaves_axes_that_arent_single_and_drops_all_by_default() -> None:
    values = X[:1, :1]
    assert_matches(lambda a: mb.squeeze(x=a, axes=[0, 2]), values[0], values)
    assert_matches(lambda a: mb.squeeze(x=a), values[0, 0], values)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.lists(st.booleans(), min_size=4, max_size=4))
def test_transpose_by_any_permutation(order: list[int], negative: list[bool]) -> None:
    perm = [axis - 4 if flag else axis for axis, flag in zip(order, negative, strict=True)]
    assert_matches(lambda a: mb.transpose(x=a, perm=perm), X.transpose(order), X)


def test_pixel_shuffle_and_unshuffle() -> None:
    assert_matches(lambda a: mb.pixel_shuffle(x=a, upscale_factor=2), F.pixel_shuffle(x, 2), X)
    body = lambda a: mb.pixel_unshuffle(x=a, downscale_factor=np.uint32(2))  # noqa: E731
    assert_matches(body, F.pixel_unshuffle(x, 2), X)


def test_depth_to_space_has_the_channel_fastest_and_space_to_depth_undoes_it() -> None:
    # Pixel (i, j) of a block comes from the channels (2 i + j) * C ... + C.
    expected = np.empty((2, 2, 8, 12), dtype=np.float32)
    for i in range(2):
        for j in range(2):
            expected[:, :, i::2, j::2] = X[:, (2 * i + j) * 2 : (2 * i + j) * 2 + 2]
    assert_matches(lambda a: mb.depth_to_space(x=a, block_size=2), expected, X)
    assert_matches(lambda a: mb.space_to_depth(x=a, block_size=2), X, expected)


def test_space_to_batch_and_back() -> None:
    padded = np.pad(X, [(0, 0), (0, 0), (1, 1), (0, 3)])
    expected = np.concatenate([padded[:, :, i::2, j::3] for i in range(2) for j in range(3)])
    body = lambda a: mb.space_to_batch(x=a, block_shape=[2, 3], paddings=[[1, 1], [0, 3]])  # noqa: E731
    assert_matches(body, expected, X)
    back = lambda a: mb.batch_to_space(x=a, block_shape=[2, 3], crops=[[1, 1], [0, 3]])  # noqa: E731
    assert_matches(back, X, expected)
