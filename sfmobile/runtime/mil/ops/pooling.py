"""Pooling in 1, 2 and 3 dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.convolution import PadType, pad_order, spatial_padding
from sfmobile.runtime.mil.ops.registry import op

_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _padding(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...],
    pad_type: PadType,
    pad: tuple[int, ...] | None,
    ceil_mode: bool,
) -> tuple[list[int] | None, list[int]]:
    """Padding for torch's own pooling, or None and the amounts for `pad` where that can't express it."""
    spatial = x.dim() - 2
    amounts = spatial_padding(pad_type, pad, x.shape[2:], kernel_sizes, strides, (1,) * spatial)
    symmetric = all(before == after for before, after in amounts)
    if symmetric and all(2 * before <= width for (before, _), width in zip(amounts, kernel_sizes, strict=True)):
        return [before for before, _ in amounts], []
    if ceil_mode:
        raise ValueError(f"has ceil_mode with pad {amounts}")
    return None, pad_order(amounts)


@op("avg_pool")
def avg_pool(
    x: Tensor,
    *,
    kernel_sizes: tuple[int, ...],
    pad_type: PadType,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """MIL `avg_pool`. x (N, C, *D)."""
    spatial = x.dim() - 2
    strides = strides or (1,) * spatial
    pool = _AVERAGE[spatial]
    padding, around = _padding(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    if padding is not None:
        return pool(x, kernel_sizes, strides, padding, ceil_mode, not exclude_padding_from_average)
    total = pool(F.pad(x, around), kernel_sizes, strides)
    if not exclude_padding_from_average:
        return total
    return total / pool(F.pad(torch.ones_like(x[:1, :1]), around), kernel_sizes, strides)


@op("max_pool", exact=True)
def max_pool(
    x: Tensor,
    *,
    kernel_sizes: tuple[int, ...],
    pad_type: PadType,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """MIL `max_pool`. x (N, C, *D); padding never wins."""
    spatial = x.dim() - 2
    strides = strides or (1,) * spatial
    pool = _MAXIMUM[spatial]
    padding, around = _padding(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    if padding is not None:
        return pool(x, kernel_sizes, strides, padding, ceil_mode=ceil_mode)
    return pool(F.pad(x, around, value=-math.inf), kernel_sizes, strides)


@op("l2_pool")
def l2_pool(
    x: Tensor,
    *,
    kernel_sizes: tuple[int, ...],
    pad_type: PadType,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """MIL `l2_pool`: the root of the sum of squares."""
    mean = avg_pool(
        x.square(), kernel_sizes=kernel_sizes, pad_type=pad_type, strides=strides, pad=pad, ceil_mode=ceil_mode
    )
    return (mean * math.prod(kernel_sizes)).sqrt()
