"""Convolutions in 1, 2 and 3 dimensions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import op

PadType = Literal["valid", "same", "same_lower", "custom"]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial_padding(
    pad_type: PadType,
    pad: tuple[int, ...] | None,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Elements before and after each spatial axis. `same` puts the odd one behind, `same_lower` before; the output
    size is then ceil(size / stride)."""
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        if pad is None or len(pad) != 2 * len(sizes):
            raise ValueError(f"has pad {pad} for {len(sizes)} spatial axes")
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(sizes))]
    amounts = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        amounts.append((small, large) if pad_type == "same" else (large, small))
    return amounts


def pad_order(amounts: list[tuple[int, int]]) -> list[int]:
    """Amounts per axis, first axis first, in the order of `torch.nn.functional.pad` (last axis first)."""
    return [amount for pair in reversed(amounts) for amount in pair]


@op("conv", fresh=True)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: tuple[int, ...] | None = None,
    pad_type: PadType = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """MIL `conv`. x (N, C, *D), weight (K, C/groups, *k), bias (K)."""
    spatial = x.dim() - 2
    strides = strides or (1,) * spatial
    dilations = dilations or (1,) * spatial
    amounts = spatial_padding(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    if all(before == after for before, after in amounts):
        padding = [before for before, _ in amounts]
    else:
        x = F.pad(x, pad_order(amounts))
        padding = [0] * spatial
    return _CONVOLUTIONS[spatial](x, weight, bias, strides, padding, dilations, groups)


@op("conv_quantized")
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    quantization_type: Literal["linear"],
    quant_scale: float | tuple[float, ...],
    quant_bias: float | tuple[float, ...],
    nbits: Literal[8] = 8,
    strides: tuple[int, ...] | None = None,
    pad_type: PadType = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """MIL `conv_quantized`: `conv` with the weight quant_scale * weight + quant_bias, each one number or one a channel.

    Only whole bytes of linear quantization: how narrower ones are packed, and where a lookup table would be, the
    reference doesn't say.
    """

    def along(values: float | tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, *(1,) * (weight.dim() - 1))

    wide = weight.float() * along(quant_scale) + along(quant_bias)
    return conv(
        x,
        wide,
        None if bias is None else bias.float(),
        strides=strides,
        pad_type=pad_type,
        pad=pad,
        dilations=dilations,
        groups=groups,
    )


@op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: PadType = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """MIL `conv_transpose`. x (N, C, *D), weight (C, K/groups, *k), bias (K).

    The unpadded result is cropped by `pad` before and behind; where `output_shape` asks for more behind than there
    is, zeros (plus bias) follow.
    """
    spatial = x.dim() - 2
    strides = strides or (1,) * spatial
    dilations = dilations or (1,) * spatial
    full = _TRANSPOSED[spatial](x, weight, None, strides, 0, 0, groups, dilations)
    sizes = tuple(full.shape[2:])
    if pad_type in ("same", "same_lower"):
        wanted = tuple(size * stride for size, stride in zip(x.shape[2:], strides, strict=True))
        spare = [size - target for size, target in zip(sizes, wanted, strict=True)]
        befores = [max(0, extra // 2 if pad_type == "same" else extra - extra // 2) for extra in spare]
    else:
        amounts = spatial_padding(pad_type, pad, sizes, (), (), ())
        befores = [before for before, _ in amounts]
        wanted = tuple(size - sum(pair) for size, pair in zip(sizes, amounts, strict=True))
    if output_shape is not None:
        wanted = output_shape[2:]
    cropped = [(-before, before + target - size) for before, target, size in zip(befores, wanted, sizes, strict=True)]
    if any(amount for pair in cropped for amount in pair):
        full = F.pad(full, pad_order(cropped))
    return full if bias is None else torch.add(full, bias.view(-1, *(1,) * spatial))
