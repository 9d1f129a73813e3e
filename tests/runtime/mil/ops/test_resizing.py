"""Resizing against torch and the sampling grids of the MIL reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional as F

from sfmobile.errors import UnavailableError
from tests.runtime.mil.programs import assert_matches, evaluate

X = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
x = torch.from_numpy(X)


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (1.5, 2.5)])
def test_upsample_nearest_neighbor_matches_torch(factors: tuple[float, float]) -> None:
    expected = F.interpolate(x, scale_factor=factors, mode="nearest")
    height, width = (np.int32(f) if isinstance(f, int) else np.float32(f) for f in factors)
    body = lambda a: mb.upsample_nearest_neighbor(  # noqa: E731
        x=a, scale_factor_height=height, scale_factor_width=width
    )
    assert_matches(body, expected, X)


def test_images_without_a_batch_axis_are_resized_too() -> None:
    expected = F.interpolate(x, scale_factor=2, mode="nearest")[0]
    body = lambda a: mb.upsample_nearest_neighbor(x=a, scale_factor_height=2, scale_factor_width=2)  # noqa: E731
    assert_matches(body, expected, X[0])
    expected = F.interpolate(x, size=(9, 4), mode="bilinear", align_corners=True)[0]
    body = lambda a: mb.resize_bilinear(  # noqa: E731
        x=a, target_size_height=9, target_size_width=4, sampling_mode="STRICT_ALIGN_CORNERS"
    )
    assert_matches(body, expected, X[0])


@pytest.mark.parametrize("size", [(10, 12), (7, 3)])
def test_resize_nearest_neighbor_matches_torch(size: tuple[int, int]) -> None:
    expected = F.interpolate(x, size=size, mode="nearest")
    body = lambda a: mb.resize_nearest_neighbor(x=a, target_size_height=size[0], target_size_width=size[1])  # noqa: E731
    assert_matches(body, expected, X)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factors", [(2.0, 3.0), (1.5, 2.2)])
def test_upsample_bilinear_matches_torch(factors: tuple[float, float], align_corners: bool) -> None:
    expected = F.interpolate(
        x, scale_factor=factors, mode="bilinear", align_corners=align_corners, recompute_scale_factor=True
    )
    body = lambda a: mb.upsample_bilinear(  # noqa: E731
        x=a, scale_factor_height=factors[0], scale_factor_width=factors[1], align_corners=align_corners
    )
    assert_matches(body, expected, X)


def test_upsample_bilinear_without_half_pixel_centers_samples_from_the_corner() -> None:
    ramp = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    body = lambda a: mb.upsample_bilinear(  # noqa: E731
        x=a, scale_factor_height=1, scale_factor_width=2, align_corners=False, half_pixel_centers=False
    )
    assert_matches(body, np.array([[[[0, 0.5, 1, 1.5, 2, 2.5, 3, 3]]]]), ramp)


@pytest.mark.parametrize(
    ("mode", "five", "six"),
    [
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1], [0, 0, 1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_resize_bilinear_samples_the_grid_of_the_reference(mode: str, five: list[float], six: list[float]) -> None:
    """The interval [0, 1] resampled shows the grid points themselves; those are the reference's own examples."""
    for grid in (five, six):
        width = len(grid)
        body = lambda a, width=width: mb.resize_bilinear(  # noqa: E731
            x=a, target_size_height=1, target_size_width=width, sampling_mode=mode
        )
        (found,) = evaluate(body, np.array([[[[0.0, 1.0]]]], dtype=np.float32))
        np.testing.assert_allclose(found[0, 0, 0], grid, atol=1e-6)


def test_align_corners_centres_a_single_sample_and_strict_takes_the_first() -> None:
    ramp = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    for mode, value in (("ALIGN_CORNERS", 1.5), ("STRICT_ALIGN_CORNERS", 0.0)):
        body = lambda a, mode=mode: mb.resize_bilinear(  # noqa: E731
            x=a, target_size_height=1, target_size_width=1, sampling_mode=mode
        )
        assert_matches(body, np.full((1, 1, 1, 1), value), ramp)


def test_resize_ios17_linear_nearest_and_kept_sizes() -> None:
    shape = np.array([1, 10, 0], dtype=np.int32)
    body = lambda a, mode="LINEAR", sampling="UNALIGN_CORNERS": mb.resize(  # noqa: E731
        x=a, shape=shape, resized_dims=np.uint32(2), interpolation_mode=mode, sampling_mode=sampling
    )
    expected = F.interpolate(x, size=(10, 6), mode="bilinear", align_corners=False)
    assert_matches(body, expected, X, target="ios17")
    nearest = F.interpolate(x, size=(10, 6), mode="nearest")
    assert_matches(lambda a: body(a, "NEAREST_NEIGHBOR", "DEFAULT"), nearest, X, target="ios17")
    with pytest.raises(UnavailableError, match=r"\(resize\).*NEAREST_NEIGHBOR with sampling_mode OFFSET_CORNERS"):
        evaluate(lambda a: body(a, "NEAREST_NEIGHBOR", "OFFSET_CORNERS"), X, target="ios17")


def test_crop_takes_from_both_sides() -> None:
    assert_matches(lambda a: mb.crop(x=a, crop_height=[1, 2], crop_width=[0, 3]), X[:, :, 1:3, :3], X)


def test_resize_takes_the_nearest_element_as_coremltools_own_test_has_it() -> None:
    values = np.array([-6.174, 9.371], np.float32).reshape(1, 1, 2, 1)
    body = lambda a: mb.resize(  # noqa: E731
        x=a, shape=[1, 1, 3, 2], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"
    )
    expected = np.array([-6.174, -6.174, 9.371, 9.371, 9.371, 9.371], np.float32).reshape(1, 1, 3, 2)
    assert_matches(body, expected, values, target="ios17")
