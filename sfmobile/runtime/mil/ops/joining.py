"""Ops that join and part tensors along an axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import axis_from_start, op


@op("concat", exact=True)
def concat(values: Sequence[Tensor], *, axis: int, interleave: bool = False) -> Tensor:
    """MIL `concat` along `axis`; `interleave` takes one row of each in turn. Scalars count as vectors of one."""
    tensors = [value.reshape(1) if value.dim() == 0 else value for value in values]
    if not interleave:
        return torch.cat(tensors, axis)
    axis = axis_from_start(axis, tensors[0].dim())
    return torch.stack(tensors, axis + 1).flatten(axis, axis + 1)


@op("stack", exact=True)
def stack(values: Sequence[Tensor], *, axis: int) -> Tensor:
    """MIL `stack`: a new axis at `axis`."""
    return torch.stack(list(values), axis)


@op("split", exact=True)
def split(
    x: Tensor, *, axis: int, num_splits: int | None = None, split_sizes: tuple[int, ...] | None = None
) -> Sequence[Tensor]:
    """MIL `split` along `axis`: into `split_sizes`, or into `num_splits` equal parts."""
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"splits an axis of {x.shape[axis]} into {num_splits} parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)
