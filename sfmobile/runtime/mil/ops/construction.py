"""Ops that make tensors: fills, ranges, one-hot vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import axis_from_start, op


def _type_of(value: bool | int | float) -> torch.dtype:
    if isinstance(value, bool):
        return torch.bool
    return torch.int32 if isinstance(value, int) else torch.float32


@op("fill", exact=True)
def fill(*, shape: tuple[int, ...], value: bool | int | float = 0.0) -> Tensor:
    """MIL `fill`: a tensor of `shape` full of `value`."""
    return torch.full(shape, value, dtype=_type_of(value))


@op("fill_like", exact=True)
def fill_like(ref_tensor: Tensor, *, value: bool | int | float = 0.0) -> Tensor:
    """MIL `fill_like`: a tensor of `ref_tensor`'s shape full of `value`."""
    return torch.full(ref_tensor.shape, value, dtype=_type_of(value))


@op("range_1d")
def range_1d(*, end: int | float, start: int | float, step: int | float) -> Tensor:
    """MIL `range_1d`: start, start + step, ... below `end`."""
    return torch.arange(start, end, step, dtype=_type_of(start))


@op("shape", exact=True)
def shape(x: Tensor) -> Tensor:
    """MIL `shape`: the sizes of `x` as int32."""
    return torch.tensor(x.shape, dtype=torch.int32)


@op("one_hot", exact=True)
def one_hot(
    indices: Tensor,
    *,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: bool | int | float = 1,
    off_value: bool | int | float = 0,
) -> Tensor:
    """MIL `one_hot`: a new axis of `one_hot_vector_size`, `on_value` at the index and `off_value` elsewhere."""
    position = axis_from_start(axis, indices.dim() + 1)
    places = torch.arange(one_hot_vector_size).view(-1, *(1,) * (indices.dim() - position))
    hot = indices.unsqueeze(position) == places
    kind = _type_of(on_value)
    return torch.where(hot, torch.tensor(on_value, dtype=kind), torch.tensor(off_value, dtype=kind))


@op("non_zero", exact=True)
def non_zero(x: Tensor) -> Tensor:
    """MIL `non_zero`: indices of the non-zero elements, (N, rank), int32."""
    return x.nonzero().to(torch.int32)


@op("band_part", exact=True)
def band_part(x: Tensor, *, lower: int = -1, upper: int = -1) -> Tensor:
    """MIL `band_part`: zero outside `lower` sub- and `upper` super-diagonals; a negative count keeps them all."""
    if lower >= 0:
        x = x.triu(-lower)
    return x.tril(upper) if upper >= 0 else x


@op("tile", exact=True)
def tile(x: Tensor, *, reps: tuple[int, ...]) -> Tensor:
    """MIL `tile`: `x` repeated reps[i] times along axis i."""
    return x.repeat(reps)


@op("cumsum")
def cumsum(x: Tensor, *, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """MIL `cumsum` along `axis`; `exclusive` leaves out the element itself, `reverse` sums from the end."""
    ordered = x.flip(axis) if reverse else x
    total = ordered.cumsum(axis, dtype=x.dtype)
    if exclusive:
        total = total - ordered
    return total.flip(axis) if reverse else total


@op("argsort", exact=True)
def argsort(x: Tensor, *, axis: int = -1, ascending: bool = False) -> Tensor:
    """MIL `argsort`: indices that sort `x` along `axis`, int32; equal elements keep their order."""
    return x.argsort(dim=axis, descending=not ascending, stable=True).to(torch.int32)


@op("topk", exact=True)
def topk(
    x: Tensor,
    *,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Sequence[Tensor]:
    """MIL `topk`: the `k` largest (smallest if `ascending`) along `axis`, sorted whatever `sort`, and their indices."""
    values, indices = x.topk(k, dim=axis, largest=not ascending, sorted=True)
    return (values, indices.to(torch.int32)) if return_indices else (values,)
