"""Sampling at computed places against torch's grid_sample and torchvision's rules; boxes against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional as F

from tests.runtime.mil.programs import assert_matches, evaluate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5, 6)).astype(np.float32)
PLACES = RNG.uniform(-1.6, 1.6, size=(2, 4, 7, 2)).astype(np.float32)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize(("padding", "theirs"), [("constant", "zeros"), ("border", "border")])
def test_resample_matches_grid_sample(padding: str, theirs: str, sampling: str, align: bool) -> None:
    expected = F.grid_sample(torch.from_numpy(X), torch.from_numpy(PLACES), sampling, theirs, align)

    def body(x: Any, places: Any) -> Any:
        return mb.resample(
            x=x, coordinates=places, sampling_mode=sampling, padding_mode=padding, padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one", align_corners=align,
        )  # fmt: skip

    assert_matches(body, expected, X, PLACES)


@pytest.mark.parametrize(("padding", "theirs"), [("reflection", "reflect"), ("symmetric", "symmetric")])
def test_resample_reflects_as_numpy_pads(padding: str, theirs: str) -> None:
    places = np.stack(np.meshgrid(np.arange(-4, 10), np.arange(-3, 8)), -1)[None].astype(np.float32)
    expected = np.pad(X[:1], ((0, 0), (0, 0), (3, 3), (4, 4)), mode=theirs)  # type: ignore[call-overload]

    def body(x: Any, at: Any) -> Any:
        return mb.resample(
            x=x, coordinates=at, sampling_mode="bilinear", padding_mode=padding, padding_value=0.0,
            coordinates_mode="unnormalized", align_corners=True,
        )  # fmt: skip

    assert_matches(body, expected, X[:1], places)


def test_a_place_that_is_no_number_is_outside() -> None:
    places = np.full((2, 1, 1, 2), np.nan, np.float32)

    def body(x: Any, at: Any) -> Any:
        return mb.resample(
            x=x, coordinates=at, sampling_mode="bilinear", padding_mode="constant", padding_value=7.0,
            coordinates_mode="unnormalized", align_corners=True,
        )  # fmt: skip

    assert_matches(body, np.full((2, 3, 1, 1), 7, np.float32), X, places)


def test_affine_matches_torch() -> None:
    theta = RNG.normal(size=(2, 6)).astype(np.float32)
    grid = F.affine_grid(torch.from_numpy(theta).view(2, 2, 3), [2, 3, 4, 7], align_corners=True)
    expected = F.grid_sample(torch.from_numpy(X), grid, align_corners=True)

    def body(x: Any, matrix: Any) -> Any:
        return mb.affine(
            x=x, transform_matrix=matrix, output_height=4, output_width=7, sampling_mode="bilinear",
            padding_mode="constant", padding_value=0.0, coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )  # fmt: skip

    assert_matches(body, expected, X, theta)


def test_crop_resize_of_every_image_samples_between_the_corners() -> None:
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) + 1
    roi = np.array([[1, 1, 2, 2], [2, 2, 1, 1]], np.float32).reshape(2, 1, 4, 1, 1)

    def body(x: Any, boxes: Any) -> Any:
        kwargs = {"x": x, "roi": boxes, "sampling_mode": "ALIGN_CORNERS"}
        return mb.crop_resize(target_width=2, target_height=2, **kwargs), mb.crop_resize(**kwargs)

    crops = np.array([[6, 7, 10, 11], [11, 10, 7, 6]], np.float32).reshape(2, 1, 1, 2, 2)
    assert_matches(body, [crops, np.full((2, 1, 1, 1, 1), 8.5, np.float32)], image, roi)  # type: ignore[list-item]


def test_crop_resize_by_index_pads_outside_of_the_image() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 2, 1]], np.float32)

    def body(x: Any, corners: Any) -> Any:
        return mb.crop_resize(
            x=x, boxes=corners, box_indices=np.array([1, 0], np.int32), target_height=3, target_width=2,
            normalized_coordinates=True, sampling_mode="STRICT_ALIGN_CORNERS", pad_value=9.0,
        )  # fmt: skip

    whole = X[1][:, [0, 2, 4]][:, :, [0, 5]]
    half = np.concatenate([X[0][:, [0, 4]][:, :, [0, 5]], np.full((3, 1, 2), 9, np.float32)], axis=1)
    assert_matches(body, np.stack([whole, half]), X, boxes, target="ios17")


def greedy(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray | None, threshold: float) -> list[int]:
    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
        high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
        common = float(np.prod(np.maximum(high - low, 0)))
        return common / (float(np.prod(a[2:]) + np.prod(b[2:])) - common)

    kept: list[int] = []
    for place in np.argsort(-scores):
        rivals = [one for one in kept if classes is None or classes[one] == classes[place]]
        if all(overlap(boxes[one], boxes[place]) <= threshold for one in rivals):
            kept.append(int(place))
    return kept


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("target", ["ios16", "ios17"])
def test_non_maximum_suppression_keeps_the_best_of_those_that_overlap(target: str, per_class: bool) -> None:
    boxes = np.concatenate([RNG.uniform(0, 20, (12, 2)), RNG.uniform(5, 15, (12, 2))], axis=1).astype(np.float32)
    scores = RNG.uniform(0.1, 1, (12, 3)).astype(np.float32)
    kept = greedy(boxes, scores.max(1), scores.argmax(1) if per_class else None, 0.4)[:6]
    older = {"score_threshold": 0.0} if target == "ios16" else {}

    def body(b: Any, s: Any) -> Any:
        return mb.non_maximum_suppression(
            boxes=b, scores=s, iou_threshold=0.4, max_boxes=6, per_class_suppression=per_class, **older
        )

    turned = (boxes[None], scores[None]) if older else (boxes.T[None].copy(), scores.T[None].copy())
    found = evaluate(body, *turned, target=target)
    chosen = found[0][0] if older else found[0][0].T
    np.testing.assert_array_equal(found[2][0], [*kept, *[-1] * (6 - len(kept))])
    np.testing.assert_array_equal(chosen[: len(kept)], boxes[kept])
    assert not chosen[len(kept) :].any()
    assert len(found) == (4 if older else 3)
