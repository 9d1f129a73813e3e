"""Normalisations, their statistics in float32, so that no square overflows.

Each is a composite where its form is one that Apple's compiler names: one operation to it, whatever its body, so that
a float32 statistic doesn't cut a Neural Engine region in two (reported by others: 13 regions, 13.2 ms without, one
region, 2.1 ms with).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.builder import Operands
from sfmobile.runtime.coreai.registry import bridges

if TYPE_CHECKING:
    from coreai.authoring import Value


def _normal(x: Value, shape: Sequence[int], axes: Sequence[int], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, in float32."""
    from coreai import authoring as core

    kept = np.asarray([1 if axis in axes else size for axis, size in enumerate(shape)], np.uint32)
    over = np.asarray(sorted(axes), np.int32)

    def mean(value: Value) -> Value:
        return core.reshape(core.reduce_mean(value, over), kept)

    centred = core.broadcasting_sub(core.cast(x, np.float32), mean(core.cast(x, np.float32)))
    variance = mean(core.broadcasting_mul(centred, centred))
    return core.broadcasting_mul(centred, core.rsqrt(core.broadcasting_add(variance, np.asarray(np.float32(epsilon)))))


def _affine(operands: Operands, normal: Value, along: Sequence[int], gamma: Value | None, beta: Value | None) -> Value:
    """Scale and shift, both reshaped to `along`, in the type that `_weight` gives them; rounded at the end."""
    from coreai import authoring as core

    shape = np.asarray(along, np.uint32)
    if operands.builder.shipped:
        # As Apple's own converter has it: what leaves float32 is the normal value, and float16 all that follows.
        normal = core.cast(normal, operands.number)
    if gamma is not None:
        normal = core.broadcasting_mul(normal, core.reshape(gamma, shape))
    if beta is not None:
        normal = core.broadcasting_add(normal, core.reshape(beta, shape))
    return core.cast(normal, operands.number)


def _weight(operands: Operands, name: str) -> Value | None:
    """A scale or shift, or None without one: in the type of the result where the program is to ship, else in float32.

    A constant is made in the type that computes: folding its cast, Apple's compiler gets subnormal values wrong.
    """
    from coreai import authoring as core

    if name not in operands:
        return None
    number = operands.number if operands.builder.shipped else np.float32
    try:
        return library.constant(np.asarray(operands.array(name)).astype(number))
    except ValueError:
        return core.cast(operands[name], number)


@bridges("instance_norm")
def instance_norm(operands: Operands) -> Value:
    """Over all but the first two axes."""
    shape = operands.shape("x")
    normal = _normal(operands["x"], shape, range(2, len(shape)), operands.constant("epsilon", 1e-5))
    along = (1, shape[1], *[1] * (len(shape) - 2))
    return _affine(operands, normal, along, _weight(operands, "gamma"), _weight(operands, "beta"))


@bridges("layer_norm")
def layer_norm(operands: Operands) -> Value:
    """Over any axes."""
    shape = operands.shape("x")
    axes = [axis % len(shape) for axis in operands.constant("axes", list(range(len(shape))))]
    epsilon = operands.constant("epsilon", 1e-5)
    along = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    if "gamma" not in operands or "beta" not in operands:
        normal = _normal(operands["x"], shape, axes, epsilon)
        return _affine(operands, normal, along, _weight(operands, "gamma"), _weight(operands, "beta"))

    def body(x: Value, gamma: Value, beta: Value) -> Value:
        return _affine(operands, _normal(x, shape, axes, epsilon), along, gamma, beta)

    return _composite(operands, "layer_norm", body, ("gamma", "beta"), {"eps": epsilon, "axes": axes})


@bridges("fused.group_norm")
def group_norm(operands: Operands) -> Value:
    """Of (N, C, *D) with scale and shift (C): what `sfmobile.runtime.mil.fusion` makes of MIL's four operations."""
    from coreai import authoring as core

    shape = operands.shape("x")
    groups, epsilon = operands.constant("groups"), operands.constant("epsilon")
    parts = (shape[0], groups, shape[1] // groups * math.prod(shape[2:]))
    whole, grouped = np.asarray(shape, np.uint32), np.asarray(parts, np.uint32)

    def body(x: Value, gamma: Value, beta: Value) -> Value:
        normal = core.reshape(_normal(core.reshape(x, grouped), parts, [2], epsilon), whole)
        return _affine(operands, normal, (1, shape[1], *[1] * (len(shape) - 2)), gamma, beta)

    attributes = {"eps": epsilon, "num_channels": shape[1], "num_groups": groups}
    return _composite(operands, "group_norm", body, ("weight", "bias"), attributes)


def _composite(
    operands: Operands,
    name: str,
    body: Callable[[Value, Value, Value], Value],
    weights: tuple[str, str],
    attributes: Mapping[str, float | int | Sequence[int]],
) -> Value:
    """A norm with scale and shift as one operation; weights: what Apple's compiler calls those two."""
    scale, shift = _weight(operands, "gamma"), _weight(operands, "beta")
    assert scale is not None and shift is not None
    taken = {"input": operands["x"], weights[0]: scale, weights[1]: shift}
    return library.composite_call(name, body, taken, attributes)


@bridges("batch_norm")
def batch_norm(operands: Operands) -> Value:
    """By constant statistics, which become one scale and one shift per channel, in float64 before they are rounded."""
    from coreai import authoring as core

    shape = operands.shape("x")
    channels = shape[1]
    mean, variance = (np.asarray(operands.array(name), np.float64) for name in ("mean", "variance"))
    gamma = np.asarray(operands.array("gamma"), np.float64) if "gamma" in operands else np.ones(channels)
    beta = np.asarray(operands.array("beta"), np.float64) if "beta" in operands else np.zeros(channels)
    scale = gamma / np.sqrt(variance + operands.constant("epsilon", 1e-5))
    along = (1, channels, *[1] * (len(shape) - 2))
    number = operands.number if operands.builder.shipped else np.float32
    scaled, shift = (library.constant(value.astype(number)) for value in (scale, beta - mean * scale))
    return _affine(operands, core.cast(operands["x"], np.float32), along, scaled, shift)
