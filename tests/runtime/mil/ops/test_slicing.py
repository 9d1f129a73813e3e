"""Slices and padding against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.mil.programs import assert_matches, evaluate

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 5, 6)).astype(np.float32)


@st.composite
def slices(draw: st.DrawFn) -> list[slice]:
    """One non-empty slice per axis of X, with negative ends and steps among them."""
    result = []
    for size in X.shape:
        step = draw(st.sampled_from([1, 1, 2, -1, -2]))
        places = range(draw(st.integers(0, size - 1)), draw(st.integers(0, size)), step)
        if not len(places):
            places = range(size) if step > 0 else range(size - 1, -1, step)
        begin = places.start - (size if draw(st.booleans()) else 0)
        end: int | None = places.stop if places.stop >= 0 else None
        if end is not None and end < size and draw(st.booleans()):
            end -= size
        result.append(slice(begin, end, step))
    return result


@settings(max_examples=40, deadline=None)
@given(slices())
def test_slice_by_index_is_numpys_slicing(parts: list[slice]) -> None:
    begin, stride = [part.start for part in parts], [part.step for part in parts]
    end = [part.stop if part.stop is not None else 0 for part in parts]
    end_mask = [part.stop is None for part in parts]
    body = lambda a: mb.slice_by_index(x=a, begin=begin, end=end, stride=stride, end_mask=end_mask)  # noqa: E731
    assert_matches(body, X[tuple(parts)], X)


def test_masks_ignore_begin_and_end_and_squeeze() -> None:
    body = lambda a: mb.slice_by_index(  # noqa: E731
        x=a,
        begin=[3, -2, 1],
        end=[2, 0, 4],
        begin_mask=[True, False, False],
        end_mask=[False, False, True],
        squeeze_mask=[False, True, False],
    )
    assert_matches(body, X[:2, -2, 1:], X)


def test_slice_by_index_takes_computed_ends() -> None:
    begin, end = np.array([1, 0, 2], dtype=np.int32), np.array([3, 5, 5], dtype=np.int32)
    body = lambda a, b, e: mb.slice_by_index(x=a, begin=b, end=e)  # noqa: E731
    assert_matches(body, X[1:3, 0:5, 2:5], X, begin, end)


def test_slice_by_size_counts_from_begin_or_takes_the_rest() -> None:
    body = lambda a: mb.slice_by_size(x=a, begin=[1, -2, 0], size=[2, 1, -1])  # noqa: E731
    assert_matches(body, X[1:3, 3:4], X)


def test_slice_update_changes_the_slice_alone() -> None:
    update = RANDOM.normal(size=(2, 3, 6)).astype(np.float32)
    expected = X.copy()
    expected[1:3, 0:5:2] = update
    body = lambda a, u: mb.slice_update(  # noqa: E731
        x=a, update=u, begin=[1, 0, 0], end=[3, 5, 0], stride=[1, 2, 1], end_mask=[False, False, True]
    )
    assert_matches(body, expected, X, update, target="ios18")


def test_slice_update_of_a_squeezed_axis() -> None:
    update = RANDOM.normal(size=(4, 6)).astype(np.float32)
    expected = X.copy()
    expected[:, 2] = update
    body = lambda a, u: mb.slice_update(  # noqa: E731
        x=a,
        update=u,
        begin=[0, 2, 0],
        end=[4, 0, 6],
        squeeze_mask=[False, True, False],
    )
    assert_matches(body, expected, X, update, target="ios18")


@pytest.mark.parametrize(("axis", "size", "stride"), [(0, 2, 1), (1, 3, 2), (-1, 4, 1)])
def test_sliding_windows_put_the_window_behind_its_axis(axis: int, size: int, stride: int) -> None:
    windows = np.lib.stride_tricks.sliding_window_view(X, size, axis)
    windows = np.moveaxis(windows, -1, axis % 3 + 1)
    starts = [slice(None)] * 4
    starts[axis % 3] = slice(None, None, stride)
    body = lambda a: mb.sliding_windows(x=a, axis=axis, size=size, stride=stride)  # noqa: E731
    assert_matches(body, windows[tuple(starts)], X)


def test_reverse_some_axes_and_all() -> None:
    assert_matches(lambda a: mb.reverse(x=a, axes=[0, -1]), X[::-1, :, ::-1], X)
    assert_matches(lambda a: mb.reverse(x=a), X[::-1, ::-1, ::-1], X)


@pytest.mark.parametrize(("batch_axis", "seq_axis"), [(0, 1), (2, 0)])
def test_reverse_sequence_reverses_the_first_elements(batch_axis: int, seq_axis: int) -> None:
    lengths = RANDOM.integers(0, X.shape[seq_axis] + 1, X.shape[batch_axis]).astype(np.int32)
    moved = np.moveaxis(X, (batch_axis, seq_axis), (0, 1)).copy()
    for row, length in enumerate(lengths):
        moved[row, :length] = moved[row, :length][::-1]
    body = lambda a, n: mb.reverse_sequence(x=a, lengths=n, seq_axis=seq_axis, batch_axis=batch_axis)  # noqa: E731
    assert_matches(body, np.moveaxis(moved, (0, 1), (batch_axis, seq_axis)), X, lengths)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("amounts", [[1, 2], [2, 0, 1, 3], [1, 1, 0, 2, 3, 1]])
def test_pad_of_the_last_axes(mode: str, amounts: list[int]) -> None:
    around = [(0, 0)] * (3 - len(amounts) // 2) + list(zip(amounts[::2], amounts[1::2], strict=True))
    numpy_mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[mode]
    values = {"constant_values": 1.5} if mode == "constant" else {}
    attributes = {"constant_val": np.float32(1.5)} if mode == "constant" else {}
    expected = np.pad(X, around, numpy_mode, **values)
    assert_matches(lambda a: mb.pad(x=a, pad=amounts, mode=mode, **attributes), expected, X)


def test_pad_takes_computed_amounts() -> None:
    amounts = np.array([0, 0, 1, 2, 0, 3], dtype=np.int32)
    (found,) = evaluate(lambda a, p: mb.pad(x=a, pad=p), X, amounts)
    np.testing.assert_array_equal(found, np.pad(X, [(0, 0), (1, 2), (0, 3)]))
