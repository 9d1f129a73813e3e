"""Resizing of the last two axes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import op
from sfmobile.runtime.mil.values import LimitError

SamplingMode = Literal["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "UNALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS"]


def _as_images(x: Tensor) -> Tensor:
    """`x` (*, H, W) as (N, C, H, W)."""
    return x if x.dim() == 4 else x.reshape(1, -1, *x.shape[-2:])


def _grid(size: int, target: int, mode: SamplingMode) -> Tensor:
    """Where in [0, size - 1] each of the `target` samples lies (MIL reference of `resize_bilinear`)."""
    last = torch.tensor([size - 1], dtype=torch.float64)
    return box_grid(torch.zeros_like(last), last, target, mode)[0]


def box_grid(start: Tensor, end: Tensor, target: int, mode: SamplingMode) -> Tensor:
    """Where in [start, end] (N, float64) each of the `target` samples lies; they run backwards if `end` comes first."""
    places = torch.arange(target, dtype=torch.float64)
    start, span = start.unsqueeze(1), (end - start).unsqueeze(1)
    length, sign = span.abs(), torch.where(span < 0, -1.0, 1.0)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            return start + (span / 2 if mode == "ALIGN_CORNERS" else 0 * span)
        grid = places * (length / (target - 1))
    elif mode == "UNALIGN_CORNERS":
        grid = (places + 0.5) * ((length + 1) / target) - 0.5
    elif mode == "OFFSET_CORNERS":
        grid = (places + 0.5) * (length.clamp(min=1) / target)
    else:
        grid = places * ((length + 1) / target)
    return start + sign * torch.minimum(grid.clamp(min=0), length)


def _sample_axis(x: Tensor, axis: int, target: int, mode: SamplingMode) -> Tensor:
    """Linear interpolation along one axis."""
    size = x.shape[axis]
    grid = _grid(size, target, mode)
    low = grid.floor().to(torch.int64)
    high = (low + 1).clamp(max=size - 1)
    fraction = (grid - low).to(torch.float32).view(-1, *(1,) * (-axis - 1))
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), fraction)


def _linear(x: Tensor, height: int, width: int, mode: SamplingMode) -> Tensor:
    """Bilinear resizing of x (*, H, W) to (*, height, width)."""
    return _sample_axis(_sample_axis(x, -2, height, mode), -1, width, mode)


@op("upsample_nearest_neighbor", exact=True)
def upsample_nearest_neighbor(
    x: Tensor, *, scale_factor_height: int | float = 1, scale_factor_width: int | float = 1
) -> Tensor:
    """MIL `upsample_nearest_neighbor`: out[i] = x[floor(i / scale)], floor(size * scale) of them."""
    factors = [float(scale_factor_height), float(scale_factor_width)]
    out = F.interpolate(_as_images(x), scale_factor=factors, mode="nearest")
    return out.reshape(*x.shape[:-2], *out.shape[-2:])


@op("resize_nearest_neighbor", exact=True)
def resize_nearest_neighbor(x: Tensor, *, target_size_height: int, target_size_width: int) -> Tensor:
    """MIL `resize_nearest_neighbor`: out[i] = x[floor(i * size / target)]."""
    size = (target_size_height, target_size_width)
    return F.interpolate(_as_images(x), size=size, mode="nearest").reshape(*x.shape[:-2], *size)


@op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    *,
    scale_factor_height: int | float = 1,
    scale_factor_width: int | float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """MIL `upsample_bilinear` to floor(size * scale); `half_pixel_centers` is the opposite of `align_corners` unless
    given, and the two exclude each other."""
    half_pixels = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half_pixels:
        raise ValueError("has both align_corners and half_pixel_centers")
    mode: SamplingMode = "DEFAULT"
    if align_corners or half_pixels:
        mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS"
    height = math.floor(x.shape[-2] * scale_factor_height)
    width = math.floor(x.shape[-1] * scale_factor_width)
    return _linear(x, height, width, mode)


@op("resize_bilinear")
def resize_bilinear(
    x: Tensor, *, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: SamplingMode = "DEFAULT"
) -> Tensor:
    """MIL `resize_bilinear`."""
    return _linear(x, target_size_height, target_size_width, sampling_mode)


@op("resize")
def resize(
    x: Tensor,
    *,
    shape: tuple[int, ...],
    resized_dims: int,
    interpolation_mode: Literal["LINEAR", "NEAREST_NEIGHBOR"] = "LINEAR",
    sampling_mode: SamplingMode = "DEFAULT",
) -> Tensor:
    """MIL `resize` of the last one or two axes; a 0 in `shape` keeps the size.

    The nearest element to a sample is taken, the lower of two as near ones: coremltools' own test fixes the rounding
    (the second of three samples of two is the second), the tie is our reading.
    """
    if resized_dims not in (1, 2):
        raise ValueError(f"resizes {resized_dims} axes")
    if interpolation_mode != "LINEAR" and sampling_mode != "DEFAULT":
        raise LimitError(f"has interpolation_mode {interpolation_mode} with sampling_mode {sampling_mode}")
    targets = shape[len(shape) - resized_dims :]
    for axis, target in zip(range(-resized_dims, 0), targets, strict=True):
        size = x.shape[axis]
        if interpolation_mode == "LINEAR":
            x = _sample_axis(x, axis, target or size, sampling_mode)
        else:
            x = x.index_select(axis, (_grid(size, target or size, sampling_mode) - 0.5).ceil().to(torch.int64))
    return x


@op("crop", exact=True)
def crop(x: Tensor, *, crop_height: tuple[int, ...], crop_width: tuple[int, ...]) -> Tensor:
    """MIL `crop`: elements taken away before and behind the last two axes."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
