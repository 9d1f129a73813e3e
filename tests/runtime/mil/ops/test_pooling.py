"""Pooling against torch over padding kinds and modes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional as F

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32) - 2


def paddings(pad_type: str, size: int, kernel: int, stride: int) -> tuple[int, int]:
    if pad_type == "valid":
        return 0, 0
    if pad_type == "custom":
        return 1, 2
    total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
    return (total // 2, total - total // 2) if pad_type == "same" else (total - total // 2, total // 2)


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 2), (4, 3)])
def test_pools_match_torch_on_padded_input(spatial: int, pad_type: str, kernel: int, stride: int) -> None:
    size = 8
    x = normal(2, 3, *[size] * spatial)
    before, after = paddings(pad_type, size, kernel, stride)
    around = [before, after] * spatial
    tensor = torch.from_numpy(x)
    attributes = {"kernel_sizes": [kernel] * spatial, "strides": [stride] * spatial, "pad_type": pad_type}
    if pad_type == "custom":
        attributes["pad"] = around
    padded = AVERAGE[spatial](F.pad(tensor, around), kernel, stride)
    share = AVERAGE[spatial](F.pad(torch.ones_like(tensor), around), kernel, stride)
    assert_matches(lambda a: mb.avg_pool(x=a, **attributes), padded, x)
    assert_matches(lambda a: mb.avg_pool(x=a, exclude_padding_from_average=True, **attributes), padded / share, x)
    largest = MAXIMUM[spatial](F.pad(tensor, around, value=-math.inf), kernel, stride)
    assert_matches(lambda a: mb.max_pool(x=a, **attributes), largest, x)


@pytest.mark.parametrize("spatial", [1, 2])
def test_ceil_mode_keeps_the_last_partial_window(spatial: int) -> None:
    x = normal(2, 3, *[8] * spatial)
    attributes = {"kernel_sizes": [3] * spatial, "strides": [2] * spatial, "pad_type": "valid", "ceil_mode": True}
    tensor = torch.from_numpy(x)
    assert_matches(lambda a: mb.max_pool(x=a, **attributes), MAXIMUM[spatial](tensor, 3, 2, ceil_mode=True), x)
    assert_matches(lambda a: mb.avg_pool(x=a, **attributes), AVERAGE[spatial](tensor, 3, 2, ceil_mode=True), x)


def test_stride_defaults_to_one() -> None:
    x = normal(1, 2, 5, 5)
    expected = F.max_pool2d(torch.from_numpy(x), (2, 3), 1)
    assert_matches(lambda a: mb.max_pool(x=a, kernel_sizes=[2, 3], pad_type="valid"), expected, x)


def test_l2_pool_is_the_root_of_the_sum_of_squares() -> None:
    values = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
    expected = F.lp_pool2d(torch.from_numpy(np.abs(values)), 2, (3, 2), stride=(2, 2))
    body = lambda x: mb.l2_pool(x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="valid")  # noqa: E731
    assert_matches(body, expected, values)
