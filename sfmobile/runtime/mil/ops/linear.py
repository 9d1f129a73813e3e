"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op


@op("linear", fresh=True)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """MIL `linear`. x (*, I), weight (O, I), bias (O); returns (*, O)."""
    if x.is_floating_point():
        return torch.nn.functional.linear(x, weight, bias)
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
    return torch.matmul(x, y)


@op("einsum", fresh=True)
def einsum(values: Sequence[Tensor], *, equation: str) -> Tensor:
    """MIL `einsum` of two tensors; axes of size 1 are broadcast."""
    return torch.einsum(equation, *values)
