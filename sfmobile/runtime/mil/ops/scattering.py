"""Scatters: a copy of a tensor, updated at computed indices."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.gathering import wrapped_inside
from sfmobile.runtime.mil.ops.registry import axis_from_start, op

Mode = Literal["update", "add", "sub", "mul", "div", "max", "min"]

_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def _scatter(data: Tensor, axis: int, places: Tensor, updates: Tensor, mode: Mode) -> Tensor:
    """Combine `updates` into `data` at `places` (int64, of the same shape as `updates`) along `axis`."""
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, places, updates if mode == "add" else -updates)
    if mode == "div":
        return data.scatter_reduce(axis, places, updates.reciprocal(), "prod")
    return data.scatter_reduce(axis, places, updates, _REDUCTIONS[mode])


@op("scatter")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    mode: Mode = "add",
    validate_indices: bool = False,
) -> Tensor:
    """MIL `scatter`: indices (I); updates is `data` with I in place of `axis`."""
    axis = axis_from_start(axis, data.dim())
    places = wrapped_inside(indices, data.shape[axis], validate_indices).reshape(-1, *(1,) * (data.dim() - axis - 1))
    return _scatter(data, axis, places.expand(updates.shape), updates, mode)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    mode: Mode = "add",
    validate_indices: bool = False,
) -> Tensor:
    """MIL `scatter_along_axis`: data[.., indices[.., i, ..], ..] combined with updates[.., i, ..]."""
    return _scatter(data, axis, wrapped_inside(indices, data.shape[axis], validate_indices), updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, *, mode: Mode = "add", validate_indices: bool = False
) -> Tensor:
    """MIL `scatter_nd`. indices (*I, K): each row of K indices names an element or slice of `data`; updates is
    (*I, *data.shape[K:])."""
    depth = indices.shape[-1]
    rows = indices.reshape(-1, depth)
    flat = torch.zeros(rows.shape[0], dtype=torch.int64)
    for column in range(depth):
        flat = flat * data.shape[column] + wrapped_inside(rows[:, column], data.shape[column], validate_indices)
    blocks = data.reshape(-1, max(1, data[(0,) * depth].numel()))
    parts = updates.reshape(rows.shape[0], -1)
    return _scatter(blocks, 0, flat.unsqueeze(1).expand(parts.shape), parts, mode).reshape(data.shape)
