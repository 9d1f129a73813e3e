"""Images sampled at computed places, and the boxes found in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op
from sfmobile.runtime.mil.ops.resizing import SamplingMode, box_grid

Sampling = Literal["bilinear", "nearest"]
Padding = Literal["constant", "border", "reflection", "symmetric"]
Coordinates = Literal["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]
BoxMode = Literal["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"]


def _inside(places: Tensor, size: int, padding: Padding) -> Tensor:
    """Whole places anywhere on the axis, as the places of the image that padding shows there."""
    if padding == "reflection":
        period = max(2 * (size - 1), 1)
        folded = places.remainder(period)
        return torch.where(folded >= size, period - folded, folded)
    if padding == "symmetric":
        folded = places.remainder(2 * size)
        return torch.where(folded >= size, 2 * size - 1 - folded, folded)
    return places.clamp(0, size - 1)


def _at(x: Tensor, rows: Tensor, columns: Tensor, padding: Padding, value: float) -> Tensor:
    """x (B, C, H, W) at whole places (B, *), as (B, C, *)."""
    height, width = x.shape[-2:]
    row, column = _inside(rows, height, padding), _inside(columns, width, padding)
    flat = (row * width + column).reshape(x.shape[0], 1, -1).expand(-1, x.shape[1], -1)
    found = x.flatten(2).gather(2, flat).reshape(*x.shape[:2], *rows.shape[1:])
    if padding != "constant":
        return found
    outside = (rows != row) | (columns != column)
    return found.masked_fill(outside.unsqueeze(1), value)


def sampled(x: Tensor, rows: Tensor, columns: Tensor, sampling: Sampling, padding: Padding, value: float) -> Tensor:
    """x (B, C, H, W) at the places `rows`, `columns` (B, *), counted in pixels; returns (B, C, *)."""
    # What is further away than this is as far outside; a place beyond int64, or NaN, has no whole number.
    limit = 2.0**31
    rows, columns = (places.nan_to_num(limit, limit, -limit).clamp(-limit, limit) for places in (rows, columns))
    if sampling == "nearest":
        # Of two as near, the further one: coremltools' own test has it so where it matters.
        return _at(x, (rows + 0.5).floor().long(), (columns + 0.5).floor().long(), padding, value)
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)
    upper, lower = (
        torch.lerp(
            _at(x, row, left.long(), padding, value), _at(x, row, left.long() + 1, padding, value), right.float()
        )
        for row in (top.long(), top.long() + 1)
    )
    return torch.lerp(upper, lower, down.float())


def _pixels(places: Tensor, size: int, mode: Coordinates, align_corners: bool) -> Tensor:
    """Coordinates in pixels."""
    if mode == "unnormalized":
        return places
    share = (places + 1) / 2 if mode == "normalized_minus_one_to_one" else places
    return share * (size - 1) if align_corners else share * size - 0.5


@op("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    *,
    sampling_mode: Sampling,
    padding_mode: Padding,
    padding_value: float,
    coordinates_mode: Coordinates,
    align_corners: bool,
) -> Tensor:
    """MIL `resample`. x (B, C, H, W), coordinates (B, H2, W2, 2) as x and y; returns (B, C, H2, W2)."""
    across, down = coordinates.to(torch.float32).unbind(-1)
    rows = _pixels(down, x.shape[2], coordinates_mode, align_corners)
    columns = _pixels(across, x.shape[3], coordinates_mode, align_corners)
    return sampled(x, rows, columns, sampling_mode, padding_mode, padding_value)


@op("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    *,
    output_height: int,
    output_width: int,
    sampling_mode: Sampling,
    padding_mode: Literal["constant"],
    padding_value: float,
    coordinates_mode: Coordinates,
    align_corners: bool,
) -> Tensor:
    """MIL `affine`. x (B, C, H, W), transform_matrix (B or 1, 6): where each pixel of the output is taken from."""

    def ends(size: int) -> Tensor:
        places = torch.arange(size, dtype=torch.float32)
        if coordinates_mode == "unnormalized":
            return places
        share = places / max(size - 1, 1) if align_corners else (places + 0.5) / size
        return 2 * share - 1 if coordinates_mode == "normalized_minus_one_to_one" else share

    down, across = torch.meshgrid(ends(output_height), ends(output_width), indexing="ij")
    a0, a1, a2, b0, b1, b2 = transform_matrix.expand(x.shape[0], -1).reshape(-1, 6, 1, 1).unbind(1)
    columns = _pixels(a0 * across + a1 * down + a2, x.shape[3], coordinates_mode, align_corners)
    rows = _pixels(b0 * across + b1 * down + b2, x.shape[2], coordinates_mode, align_corners)
    return sampled(x, rows, columns, sampling_mode, padding_mode, padding_value)


@op("crop_resize")
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    *,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: BoxMode = "CORNERS_HEIGHT_FIRST",
    sampling_mode: SamplingMode = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """MIL `crop_resize` of x (B, C, H, W).

    iOS 17: boxes (N, 4), box_indices (N); returns (N, C, h, w). Before: roi (N, 1, 4, 1, 1), each of all images, or
    (N, 1, 5, 1, 1), the image's index first; returns (N, B or 1, C, h, w).
    """
    older = boxes is None
    if boxes is None:
        if roi is None:
            raise ValueError("has neither roi nor boxes")
        boxes = roi.reshape(roi.shape[0], -1)
        if boxes.shape[1] == 5:
            box_indices, boxes = boxes[:, 0], boxes[:, 1:]
        else:
            box_indices = torch.arange(x.shape[0]).repeat(boxes.shape[0])
            boxes = boxes.repeat_interleave(x.shape[0], dim=0)
    images = torch.arange(boxes.shape[0]) if box_indices is None else box_indices.long()
    if images.numel() and not 0 <= int(images.min()) <= int(images.max()) < x.shape[0]:
        raise ValueError(f"has the image {int(images.max())} of {x.shape[0]}")
    top, left, bottom, right = _corners(boxes.to(torch.float64) * spatial_scale, box_coordinate_mode)
    if normalized_coordinates:
        top, bottom = (edge * (x.shape[2] - 1) for edge in (top, bottom))
        left, right = (edge * (x.shape[3] - 1) for edge in (left, right))
    rows = box_grid(top, bottom, target_height, sampling_mode)
    columns = box_grid(left, right, target_width, sampling_mode)
    shape = (boxes.shape[0], target_height, target_width)
    down, across = rows.unsqueeze(2).expand(shape), columns.unsqueeze(1).expand(shape)
    found = sampled(x[images], down, across, "bilinear", "border", pad_value)
    beyond = (down < 0) | (down > x.shape[2] - 1) | (across < 0) | (across > x.shape[3] - 1)
    found = found.masked_fill(beyond.unsqueeze(1), pad_value)
    if not older or roi is None:
        return found
    return found.reshape(roi.shape[0], -1, *found.shape[1:])


def _corners(boxes: Tensor, mode: BoxMode) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, bottom, right of boxes (N, 4)."""
    first, second, third, fourth = boxes.unbind(-1)
    if "WIDTH_FIRST" in mode:
        first, second, third, fourth = second, first, fourth, third
    if mode.startswith("CENTER"):
        return first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    return first, second, third, fourth


def suppressed(boxes: Tensor, scores: Tensor, classes: Tensor | None, iou_threshold: float) -> list[int]:
    """Indices of the boxes (B, 4: center x and y, width, height) that survive, the best first.

    A box goes if it overlaps a better one, of its own class where `classes` are given, by more than the threshold.
    """
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    area = boxes[:, 2] * boxes[:, 3]
    waiting = scores.argsort(descending=True, stable=True)
    kept: list[int] = []
    while waiting.numel():
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        common = (torch.minimum(high[best], high[waiting]) - torch.maximum(low[best], low[waiting])).clamp(min=0)
        shared = common.prod(-1)
        union = area[best] + area[waiting] - shared
        overlaps = torch.where(union > 0, shared / union, torch.zeros_like(union)) > iou_threshold
        if classes is not None:
            overlaps &= classes[best] == classes[waiting]
        waiting = waiting[~overlaps]
    return kept


@op("non_maximum_suppression", exact=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> Sequence[Tensor]:
    """MIL `non_maximum_suppression`: the chosen boxes, their scores and indices, padded to `max_boxes` with 0 and -1.

    Before iOS 17, where it has a `score_threshold`: boxes (N, B, 4), scores (N, B, K), and how many were chosen as a
    fourth result; if no score is above the threshold, the best box is chosen all the same. From then on (N, 4, B) and
    (N, K, B).
    """
    newer = score_threshold is None
    if newer:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    count, _, width = scores.shape
    chosen_boxes = boxes.new_zeros(count, max_boxes, 4)
    chosen_scores = scores.new_zeros(count, max_boxes, width)
    indices = torch.full((count, max_boxes), -1, dtype=torch.int32)
    found = torch.zeros(count, dtype=torch.int32)
    for image in range(count):
        best, classes = scores[image].max(-1)
        able = torch.arange(len(best)) if score_threshold is None else (best > score_threshold).nonzero().flatten()
        if not able.numel():
            able = best.argmax().reshape(1)
        kept = suppressed(
            boxes[image][able], best[able], classes[able] if per_class_suppression else None, iou_threshold
        )
        places = able[kept[:max_boxes]]
        size = len(places)
        chosen_boxes[image, :size], chosen_scores[image, :size] = boxes[image][places], scores[image][places]
        indices[image, :size], found[image] = places.to(torch.int32), size
    if newer:
        return chosen_boxes.transpose(1, 2), chosen_scores.transpose(1, 2), indices
    return chosen_boxes, chosen_scores, indices, found
