"""Quantisation of activations (iOS 17). That of weights is in `constexpr`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op


def _along(vector: Tensor, rank: int, axis: int | None) -> Tensor:
    """A scalar, or a vector laid along `axis` of a tensor of `rank`."""
    if vector.dim() == 0:
        return vector
    if axis is None:
        raise ValueError("has a vector of scales or zero points without an axis")
    shape = [1] * rank
    shape[axis] = -1
    return vector.view(shape)


@op("quantize", exact=True)
def quantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    output_dtype: Literal["int8", "uint8"],
    axis: int | None = None,
) -> Tensor:
    """MIL `quantize`: clip(round(input / scale) + zero_point) as `output_dtype`."""
    values = torch.round(input / _along(scale, input.dim(), axis))
    if zero_point is not None:
        values = values + _along(zero_point, input.dim(), axis)
    kind = torch.int8 if output_dtype == "int8" else torch.uint8
    limits = torch.iinfo(kind)
    return values.clamp(limits.min, limits.max).to(kind)


@op("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int | None = None) -> Tensor:
    """MIL `dequantize`: scale * (input - zero_point)."""
    values = input.to(torch.float32)
    if zero_point is not None:
        values = values - _along(zero_point, input.dim(), axis)
    return values * _along(scale, input.dim(), axis)
