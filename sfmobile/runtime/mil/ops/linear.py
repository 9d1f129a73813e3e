"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op


def alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors in one type that holds the values of both: iOS 17 multiplies whole numbers and floats."""
    if x.dtype == y.dtype:
        return x, y
    wide = torch.promote_types(x.dtype, y.dtype)
    return x.to(wide), y.to(wide)


@op("linear", fresh=True)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """MIL `linear`. x (*, I), weight (O, I), bias (O); returns (*, O)."""
    x, weight = alike(x, weight)
    if x.is_floating_point():
        return torch.nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
    product = x @ weight.transpose(0, 1)
    return product if bias is None else product + bias


@op("matmul", fresh=True)
def matmul(x: Tensor, y: Tensor, *, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """MIL `matmul` of x (*, M, K) and y (*, K, N) with numpy's broadcasting; a transposed operand is (*, K, M) or
    (*, N, K). Vectors are promoted as numpy does and aren't transposed."""
    if transpose_x and x.dim() > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.dim() > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(*alike(x, y))


@op("einsum", fresh=True)
def einsum(values: Sequence[Tensor], *, equation: str) -> Tensor:
    """MIL `einsum` of two tensors; axes of size 1 are broadcast."""
    return torch.einsum(equation, *values)
