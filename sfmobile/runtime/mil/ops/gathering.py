"""Gathers: elements of a tensor at computed indices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import axis_from_start, op


def wrapped(indices: Tensor, size: int) -> Tensor:
    """`indices` as int64 with negative ones counted from the end of an axis of `size`."""
    wide = indices.to(torch.int64)
    return torch.where(wide < 0, wide + size, wide)


def wrapped_inside(indices: Tensor, size: int, validate: bool) -> Tensor:
    """`wrapped`, or a `ValueError` for an index out of range; with `validate` for a negative one too."""
    low, high = (int(indices.min()), int(indices.max())) if indices.numel() else (0, -1)
    if high >= size or low < (0 if validate else -size):
        raise ValueError(f"has the index {high if high >= size else low} for an axis of {size}")
    return wrapped(indices, size)


@op("gather", exact=True)
def gather(x: Tensor, indices: Tensor, *, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """MIL `gather`. x (*B, *P, A, *Q) with A at `axis`, indices (*B, *I), B the first `batch_dims` axes; returns
    (*B, *P, *I, *Q). Indices out of range are an error whatever `validate_indices`."""
    axis = axis_from_start(axis, x.dim())
    places = wrapped(indices, x.shape[axis])
    shape = (*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :])
    if batch_dims == 0:
        return x.index_select(axis, places.reshape(-1)).reshape(shape)
    batch = x.shape[:batch_dims]
    blocks = x.reshape(
        math.prod(batch), math.prod(x.shape[batch_dims:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    )
    rows = places.reshape(blocks.shape[0], 1, -1, 1).expand(-1, blocks.shape[1], -1, blocks.shape[3])
    return blocks.gather(2, rows).reshape(shape)


@op("gather_along_axis", exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, *, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """MIL `gather_along_axis`: out[.., i, ..] = x[.., indices[.., i, ..], ..]; shapes agree but along `axis`."""
    return x.gather(axis, wrapped(indices, x.shape[axis]))


@op("gather_nd", exact=True)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """MIL `gather_nd`. x (*B, *D), indices (*B, *I, K): each row of K indices names an element or slice of x behind
    the batch axes; returns (*B, *I, *D[K:])."""
    depth = indices.shape[-1]
    batch = x.shape[:batch_dims]
    blocks = x.reshape(math.prod(batch), *x.shape[batch_dims:])
    rows = indices.reshape(blocks.shape[0], -1, depth)
    order = torch.arange(blocks.shape[0]).unsqueeze(1)
    places = [wrapped(rows[..., column], blocks.shape[1 + column]) for column in range(depth)]
    return blocks[(order, *places)].reshape(*indices.shape[:-1], *x.shape[batch_dims + depth :])
