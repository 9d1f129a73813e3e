"""Convolutions and linear layers over weights that were reordered once for oneDNN.

torch reorders a convolution's weights into oneDNN's blocked layout anew for every call, which costs up to two thirds of
the time of a small convolution. The operators used here are those torch's own compiler emits; where this build of torch
lacks them (no oneDNN, as on macOS) the plain functions are used.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.convolution import PadType, pad_order, spatial_padding

# Its stubs declare another signature than it has.
_NN: Any = torch._C._nn


def packed_convolution(
    weight: Tensor,
    bias: Tensor | None,
    input_shape: tuple[int, ...],
    *,
    strides: tuple[int, ...] | None = None,
    pad_type: PadType = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> partial[Tensor] | None:
    """MIL `conv` of float32 inputs of `input_shape` (N, C, H, W) as a function of the input alone.

    None if this torch has no oneDNN or the convolution isn't two-dimensional.
    """
    if len(input_shape) != 4 or not available():
        return None
    strides = strides or (1, 1)
    dilations = dilations or (1, 1)
    amounts = spatial_padding(pad_type, pad, input_shape[2:], tuple(weight.shape[2:]), strides, dilations)
    around: list[int] = []
    padding = [before for before, _ in amounts]
    if any(before != after for before, after in amounts):
        around, padding = pad_order(amounts), [0, 0]
    height, width = (size + sum(pair) for size, pair in zip(input_shape[2:], amounts, strict=True))
    shape = [*input_shape[:2], height, width] if around else list(input_shape)
    packed = _NN.mkldnn_reorder_conv2d_weight(
        weight.contiguous().to_mkldnn(), padding, list(strides), list(dilations), groups, shape
    )
    return partial(_convolve, packed, bias, padding, list(strides), list(dilations), groups, around)


def _convolve(
    packed: Tensor,
    bias: Tensor | None,
    padding: list[int],
    strides: list[int],
    dilations: list[int],
    groups: int,
    around: list[int],
    x: Tensor,
) -> Tensor:
    if around:
        x = F.pad(x, around)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, padding, strides, dilations, groups, "none", [], ""
    )
    return out


def packed_linear(weight: Tensor, bias: Tensor | None, rows: int) -> partial[Tensor] | None:
    """MIL `linear` of float32 inputs with `rows` rows in all, as a function of the input alone; None without oneDNN."""
    if not available():
        return None
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    return partial(_project, packed, bias)


def _project(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


def multiply_rows(x: Tensor, y: Tensor) -> Tensor:
    """x (N, K) times the transpose of y (M, K), both contiguous: (N, M). oneDNN's product where there is one."""
    return _project(y, None, x) if available() else torch.mm(x, y.transpose(0, 1))


@cache
def available() -> bool:
    """Whether this build of torch has the operators, tried on a small case."""
    x, kernel, matrix = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 1, 1), torch.ones(4, 3)
    try:
        packed = _NN.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), [0, 0], [1, 1], [1, 1], 1, [1, 2, 3, 3])
        convolved = _convolve(packed, None, [0, 0], [1, 1], [1, 1], 1, [], x)
        projected = _project(torch.ops.mkldnn._reorder_linear_weight(matrix, 1), None, x)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
    return bool(torch.equal(convolved, F.conv2d(x, kernel)) and torch.equal(projected, F.linear(x, matrix)))
