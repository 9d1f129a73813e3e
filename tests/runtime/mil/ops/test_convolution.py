"""Convolutions against torch over padding kinds, strides, dilations and groups in 1 to 3 dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Total padding that makes the output ceil(size / stride) long."""
    return max(0, (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)


@settings(max_examples=40, deadline=None)
@given(
    spatial=st.integers(1, 3),
    pad_type=st.sampled_from(["valid", "same", "same_lower", "custom"]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    kernel=st.integers(1, 4),
    groups=st.sampled_from([1, 2, 4]),
    biased=st.booleans(),
    pads=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_conv_matches_torch(
    spatial: int, pad_type: str, stride: int, dilation: int, kernel: int, groups: int, biased: bool, pads: list[int]
) -> None:
    size = 8
    x, weight = normal(2, 4, *[size] * spatial), normal(8, 4 // groups, *[kernel] * spatial)
    bias = normal(8) if biased else None
    amounts = [(pads[2 * axis], pads[2 * axis + 1]) for axis in range(spatial)]
    if pad_type != "custom":
        total = 0 if pad_type == "valid" else same_padding(size, kernel, stride, dilation)
        odd_behind = (total // 2, total - total // 2)
        amounts = [odd_behind if pad_type != "same_lower" else odd_behind[::-1]] * spatial
    padded = F.pad(torch.from_numpy(x), [amount for pair in reversed(amounts) for amount in pair])
    expected = CONV[spatial](
        padded, torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias), stride, 0, dilation, groups
    )
    attributes = {"pad": [amount for pair in amounts for amount in pair]} if pad_type == "custom" else {}
    if bias is not None:
        attributes["bias"] = bias
    assert_matches(
        lambda a: mb.conv(
            x=a,
            weight=weight,
            pad_type=pad_type,
            strides=[stride] * spatial,
            dilations=[dilation] * spatial,
            groups=groups,
            **attributes,
        ),
        expected,
        x,
        tolerance=1e-4,
    )


def test_conv_defaults_are_stride_one_without_padding() -> None:
    x, weight = normal(1, 3, 6, 7), normal(5, 3, 2, 3)
    assert_matches(lambda a: mb.conv(x=a, weight=weight), F.conv2d(torch.from_numpy(x), torch.from_numpy(weight)), x)


def test_conv_takes_a_computed_weight() -> None:
    x, weight = normal(1, 3, 6, 6), normal(4, 3, 3, 3)
    expected = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight) * 2)
    assert_matches(lambda a, w: mb.conv(x=a, weight=mb.mul(x=w, y=2.0)), expected, x, weight, target="ios17")


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 2, 2)])
def test_conv_transpose_matches_torch(spatial: int, groups: int, stride: int, padding: int, dilation: int) -> None:
    x, weight, bias = normal(2, 4, *[5] * spatial), normal(4, 3, *[3] * spatial), normal(3 * groups)
    expected = TRANSPOSED[spatial](
        torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(bias), stride, padding, 0, groups, dilation
    )
    body = lambda a: mb.conv_transpose(  # noqa: E731
        x=a,
        weight=weight,
        bias=bias,
        pad_type="custom",
        pad=[padding] * 2 * spatial,
        strides=[stride] * spatial,
        dilations=[dilation] * spatial,
        groups=groups,
    )
    assert_matches(body, expected, x, tolerance=1e-4)


def test_conv_transpose_reaches_a_larger_output_shape() -> None:
    x, weight, bias = normal(1, 4, 5, 6), normal(4, 3, 3, 3), normal(3)
    expected = F.conv_transpose2d(
        torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(bias), 2, 1, output_padding=1
    )
    body = lambda a: mb.conv_transpose(  # noqa: E731
        x=a, weight=weight, bias=bias, pad_type="custom", pad=[1] * 4, strides=[2, 2], output_shape=expected.shape
    )
    assert_matches(body, expected, x, tolerance=1e-4)


def test_conv_transpose_same_multiplies_the_size_by_the_stride() -> None:
    x, weight = normal(1, 2, 5, 5), normal(2, 3, 4, 4)
    full = F.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), stride=2)
    body = lambda a: mb.conv_transpose(x=a, weight=weight, pad_type="same", strides=[2, 2])  # noqa: E731
    assert_matches(body, full[:, :, 1:11, 1:11], x, tolerance=1e-4)


def test_conv_quantized_convolves_with_the_dequantized_weight() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(1, 2, 5, 5)).astype(np.float32), rng.integers(0, 256, (3, 2, 3, 3)).astype(np.uint8)
    scale, bias = rng.uniform(0.01, 0.02, 3).astype(np.float32), rng.normal(size=3).astype(np.float32)
    wide = weight * scale.reshape(3, 1, 1, 1) + bias.reshape(3, 1, 1, 1)
    body = lambda a: mb.conv_quantized(  # noqa: E731
        x=a, weight=weight, quantization_type="linear", nbits=8, quant_scale=scale, quant_bias=bias, pad_type="same"
    )
    assert_matches(body, F.conv2d(torch.from_numpy(x), torch.from_numpy(wide), padding=1), x, tolerance=1e-4)
