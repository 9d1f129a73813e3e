"""Shapes: reshape, transpose, and rearrangements between axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import axis_from_start, op


@op("reshape", exact=True)
def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """MIL `reshape`. A 0 copies the size of x at the same place counted from the right (1 beyond it); one -1 is
    inferred."""
    if 0 in shape:
        sizes = (*(1,) * (len(shape) - x.dim()), *x.shape)[-len(shape) :]
        shape = tuple(size or sizes[place] for place, size in enumerate(shape))
    return x.reshape(shape)


@op("reshape_like", exact=True)
def reshape_like(
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    *,
    begins: Sequence[int],
    ends: Sequence[int],
    end_masks: Sequence[bool],
) -> Tensor:
    """MIL `reshape_like`: the shapes of ref_tensors[i] from begins[i] to ends[i] (to the end if masked), joined."""
    shape: list[int] = []
    for tensor, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape.extend(tensor.shape[begin:] if to_end else tensor.shape[begin:end])
    return x.reshape(shape)


@op("flatten2d", exact=True)
def flatten2d(x: Tensor, *, axis: int = 1) -> Tensor:
    """MIL `flatten2d`: (product of the axes before `axis`, product of the rest)."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("expand_dims", exact=True)
def expand_dims(x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """MIL `expand_dims`: new axes of 1 at `axes` of the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis_from_start(axis, rank) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("squeeze", exact=True)
def squeeze(x: Tensor, *, axes: tuple[int, ...] | None = None) -> Tensor:
    """MIL `squeeze`: `axes` (all by default) of size 1 dropped; others are left."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@op("transpose", exact=True)
def transpose(x: Tensor, *, perm: tuple[int, ...]) -> Tensor:
    """MIL `transpose`: axis i of the result is axis perm[i] of x."""
    return x.permute(perm)


@op("pixel_shuffle", exact=True)
def pixel_shuffle(x: Tensor, *, upscale_factor: int) -> Tensor:
    """MIL `pixel_shuffle`: (N, C f^2, H, W) to (N, C, H f, W f), channel slowest."""
    return F.pixel_shuffle(x, upscale_factor)


@op("pixel_unshuffle", exact=True)
def pixel_unshuffle(x: Tensor, *, downscale_factor: int) -> Tensor:
    """MIL `pixel_unshuffle`: (N, C, H f, W f) to (N, C f^2, H, W), channel slowest."""
    return F.pixel_unshuffle(x, downscale_factor)


@op("depth_to_space", exact=True)
def depth_to_space(x: Tensor, *, block_size: int) -> Tensor:
    """MIL `depth_to_space`: (N, C b^2, H, W) to (N, C, H b, W b), channel fastest."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@op("space_to_depth", exact=True)
def space_to_depth(x: Tensor, *, block_size: int) -> Tensor:
    """MIL `space_to_depth`: (N, C, H b, W b) to (N, C b^2, H, W), channel fastest."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


@op("space_to_batch", exact=True)
def space_to_batch(x: Tensor, *, block_shape: tuple[int, ...], paddings: tuple[tuple[int, int], ...]) -> Tensor:
    """MIL `space_to_batch`: x (N, C, H, W) padded, then its blocks' pixels moved to the batch axis (block slowest)."""
    (top, bottom), (left, right) = paddings
    padded = F.pad(x, [left, right, top, bottom])
    n, c, h, w = padded.shape
    rows, columns = block_shape
    parts = padded.reshape(n, c, h // rows, rows, w // columns, columns).permute(3, 5, 0, 1, 2, 4)
    return parts.reshape(n * rows * columns, c, h // rows, w // columns)


@op("batch_to_space", exact=True)
def batch_to_space(x: Tensor, *, block_shape: tuple[int, ...], crops: tuple[tuple[int, int], ...]) -> Tensor:
    """MIL `batch_to_space`: the inverse of `space_to_batch`, with `crops` taken away."""
    n, c, h, w = x.shape
    rows, columns = block_shape
    n //= rows * columns
    whole = x.reshape(rows, columns, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, h * rows, w * columns)
    (top, bottom), (left, right) = crops
    return whole[:, :, top : h * rows - bottom, left : w * columns - right]
