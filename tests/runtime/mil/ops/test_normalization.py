"""Normalisations against torch and their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.normalization import layer_norm
from tests.runtime.mil.programs import assert_matches

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def affine(given: bool, *shape: int) -> dict[str, np.ndarray]:
    return {"gamma": normal(*shape), "beta": normal(*shape)} if given else {}


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("parts", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_batch_norm(shape: tuple[int, ...], parts: tuple[str, ...]) -> None:
    x, mean, variance = normal(*shape), normal(3), np.abs(normal(3)) + 0.5
    given = {name: value for name, value in affine(True, 3).items() if name in parts}
    per_channel: dict[str, Any] = {
        name: value.reshape(1, 3, *[1] * (len(shape) - 2))
        for name, value in {"mean": mean, "variance": variance, **given}.items()
    }
    expected = (x - per_channel["mean"]) / np.sqrt(per_channel["variance"] + np.float32(1e-3))
    expected = expected * per_channel.get("gamma", 1) + per_channel.get("beta", 0)
    body = lambda a: mb.batch_norm(x=a, mean=mean, variance=variance, epsilon=np.float32(1e-3), **given)  # noqa: E731
    assert_matches(body, expected, x)


@pytest.mark.parametrize("with_affine", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5)])
def test_instance_norm(shape: tuple[int, ...], with_affine: bool) -> None:
    x, given = 5 * normal(*shape) + 3, affine(with_affine, 3)
    expected = F.instance_norm(
        torch.from_numpy(x),
        weight=torch.from_numpy(given["gamma"]) if given else None,
        bias=torch.from_numpy(given["beta"]) if given else None,
        eps=1e-4,
    )
    assert_matches(lambda a: mb.instance_norm(x=a, epsilon=np.float32(1e-4), **given), expected, x)


@pytest.mark.parametrize("with_affine", [False, True])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (-1,), (1,), (1, 3), (2, 3), (3, 1)])
def test_layer_norm_over_any_axes(axes: tuple[int, ...], with_affine: bool) -> None:
    x = 5 * normal(2, 3, 4, 5) + 3
    over = sorted(axis % 4 for axis in axes)
    given = affine(with_affine, *[x.shape[axis] for axis in over])
    mean, variance = x.mean(tuple(over), keepdims=True), x.var(tuple(over), keepdims=True)
    expected = (x - mean) / np.sqrt(variance + 1e-4)
    if given:
        spread = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
        expected = expected * given["gamma"].reshape(spread) + given["beta"].reshape(spread)
    body = lambda a: mb.layer_norm(x=a, epsilon=np.float32(1e-4), axes=list(axes), **given)  # noqa: E731
    assert_matches(body, expected.astype(np.float32), x, tolerance=1e-4)


def test_layer_norm_is_over_all_axes_unless_told() -> None:
    """coremltools' builder can't write the default, another writer may."""
    x = torch.from_numpy(normal(2, 3, 4))
    torch.testing.assert_close(layer_norm(x), F.layer_norm(x, (2, 3, 4)))


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 2, 3, 4, 5)])
def test_l2_norm_is_over_the_last_three_axes(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    expected = x / np.sqrt((x**2).sum((-3, -2, -1), keepdims=True) + np.float32(0.1))
    assert_matches(lambda a: mb.l2_norm(x=a, epsilon=np.float32(0.1)), expected, x)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_local_response_norm(size: int) -> None:
    x = normal(2, 6, 4, 4)
    expected = F.local_response_norm(torch.from_numpy(x), size, 0.5, 0.6, 1.5)
    body = lambda a: mb.local_response_norm(  # noqa: E731
        x=a, size=size, alpha=np.float32(0.5), beta=np.float32(0.6), k=np.float32(1.5)
    )
    assert_matches(body, expected, x)
