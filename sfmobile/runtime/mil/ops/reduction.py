"""Reductions over axes (all by default)."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op

Axes = tuple[int, ...] | None


def _over(x: Tensor, axes: Axes) -> tuple[int, ...]:
    return tuple(range(x.dim())) if axes is None else axes


@op("reduce_sum")
def reduce_sum(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_sum`."""
    return x.sum(_over(x, axes), keepdim=keep_dims, dtype=x.dtype)


@op("reduce_mean")
def reduce_mean(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_mean`; the mean of integers is an integer, towards zero."""
    over = _over(x, axes)
    if x.is_floating_point():
        return x.mean(over, keepdim=keep_dims)
    return x.to(torch.float64).mean(over, keepdim=keep_dims).to(x.dtype)


@op("reduce_max", exact=True)
def reduce_max(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_max`."""
    return x.amax(_over(x, axes), keepdim=keep_dims)


@op("reduce_min", exact=True)
def reduce_min(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_min`."""
    return x.amin(_over(x, axes), keepdim=keep_dims)


@op("reduce_prod")
def reduce_prod(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_prod`."""
    for axis in sorted((axis % x.dim() for axis in _over(x, axes)), reverse=True):
        x = x.prod(axis, keepdim=keep_dims, dtype=x.dtype)
    return x


@op("reduce_sum_square")
def reduce_sum_square(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_sum_square`: sum of x^2."""
    return x.square().sum(_over(x, axes), keepdim=keep_dims, dtype=x.dtype)


@op("reduce_l1_norm")
def reduce_l1_norm(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_l1_norm`: sum of |x|."""
    return x.abs().sum(_over(x, axes), keepdim=keep_dims, dtype=x.dtype)


@op("reduce_l2_norm")
def reduce_l2_norm(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_l2_norm`: square root of the sum of x^2."""
    return x.to(torch.float32).square().sum(_over(x, axes), keepdim=keep_dims).sqrt().to(x.dtype)


@op("reduce_log_sum")
def reduce_log_sum(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_log_sum`: log of the sum."""
    return x.sum(_over(x, axes), keepdim=keep_dims).log().to(x.dtype)


@op("reduce_log_sum_exp")
def reduce_log_sum_exp(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
    """MIL `reduce_log_sum_exp`: log of the sum of exponentials, computed without overflow."""
    return torch.logsumexp(x.to(torch.float32), _over(x, axes), keepdim=keep_dims).to(x.dtype)


@op("reduce_argmax", exact=True)
def reduce_argmax(x: Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """MIL `reduce_argmax` as int32."""
    return x.argmax(axis, keepdim=keep_dims).to(torch.int32)


@op("reduce_argmin", exact=True)
def reduce_argmin(x: Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """MIL `reduce_argmin` as int32."""
    return x.argmin(axis, keepdim=keep_dims).to(torch.int32)
