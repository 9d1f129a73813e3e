"""Slices and padding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import axis_from_start, op

Mask = tuple[bool, ...] | None


def _ranges(
    shape: tuple[int, ...],
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None,
    begin_mask: Mask,
    end_mask: Mask,
    squeeze_mask: Mask,
) -> list[range]:
    """Indices taken from each axis, after the rules of `slice_by_index` (numpy's, with masks)."""
    rank = len(shape)
    none = (False,) * rank
    ranges = []
    for size, start, stop, step, no_start, no_stop, single in zip(
        shape,
        begin,
        end,
        stride or (1,) * rank,
        begin_mask or none,
        end_mask or none,
        squeeze_mask or none,
        strict=True,
    ):
        first = None if no_start else start
        if single:
            place = axis_from_start(first or 0, size)
            ranges.append(range(place, place + 1))
        else:
            ranges.append(range(*slice(first, None if no_stop else stop, step).indices(size)))
    return ranges


def _taken(x: Tensor, ranges: list[range]) -> Tensor:
    """The elements of `x` at `ranges`; a view unless a range runs backwards."""
    forward = tuple(
        slice(places.start, places.stop, places.step) if places.step > 0 else slice(None) for places in ranges
    )
    x = x[forward]
    for axis, places in enumerate(ranges):
        if places.step < 0:
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


@op("slice_by_index", exact=True)
def slice_by_index(
    x: Tensor,
    *,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Tensor:
    """MIL `slice_by_index`: x[begin:end:stride] per axis. A mask ignores begin (from the start), end (to the end), or
    takes the single element at begin and drops the axis."""
    taken = _taken(x, _ranges(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask))
    if squeeze_mask is None or not any(squeeze_mask):
        return taken
    return taken.reshape([size for size, dropped in zip(taken.shape, squeeze_mask, strict=True) if not dropped])


@op("slice_by_size", exact=True)
def slice_by_size(x: Tensor, *, begin: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """MIL `slice_by_size`: `size` elements from `begin` on, all the rest where size is -1."""
    for axis, (start, count) in enumerate(zip(begin, size, strict=True)):
        place = axis_from_start(start, x.shape[axis])
        x = x.narrow(axis, place, x.shape[axis] - place if count == -1 else count)
    return x


@op("slice_update", exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    *,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Tensor:
    """MIL `slice_update`: a copy of x in which `slice_by_index` with the same arguments would give `update`."""
    ranges = _ranges(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    grid = torch.meshgrid(*(torch.tensor(places, dtype=torch.int64) for places in ranges), indexing="ij")
    changed = x.clone()
    changed[grid] = update.reshape([len(places) for places in ranges])
    return changed


@op("sliding_windows", exact=True)
def sliding_windows(x: Tensor, *, axis: int, size: int, stride: int = 1) -> Tensor:
    """MIL `sliding_windows`: windows of `size` along `axis`; the new axis follows it."""
    axis = axis_from_start(axis, x.dim())
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@op("reverse", exact=True)
def reverse(x: Tensor, *, axes: tuple[int, ...] | None = None) -> Tensor:
    """MIL `reverse` along `axes` (all by default)."""
    return x.flip(tuple(range(x.dim())) if axes is None else axes)


@op("reverse_sequence", exact=True)
def reverse_sequence(x: Tensor, lengths: Tensor, *, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """MIL `reverse_sequence`: the first lengths[b] elements along `seq_axis` reversed, per row b of `batch_axis`."""
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    places = torch.arange(moved.shape[1]).expand(moved.shape[0], -1)
    counts = lengths.to(torch.int64).unsqueeze(1)
    order = torch.where(places < counts, counts - 1 - places, places)
    rows = torch.arange(moved.shape[0]).unsqueeze(1)
    return moved[rows, order].movedim((0, 1), (batch_axis, seq_axis))


@op("pad", exact=True)
def pad(
    x: Tensor,
    *,
    pad: tuple[int, ...],
    mode: Literal["constant", "reflect", "replicate"] = "constant",
    constant_val: float = 0.0,
) -> Tensor:
    """MIL `pad` of the last len(pad) / 2 axes, two amounts per axis, first axis first."""
    axes = len(pad) // 2
    pairs = [(pad[2 * index], pad[2 * index + 1]) for index in range(axes)]
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, start=x.dim() - axes):
        if before or after:
            size = x.shape[axis]
            places = torch.arange(-before, size + after)
            if mode == "replicate":
                places = places.clamp(0, size - 1)
            else:
                places = places.abs()
                places = torch.where(places >= size, 2 * (size - 1) - places, places)
            x = x.index_select(axis, places)
    return x
