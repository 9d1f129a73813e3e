"""Normalisations, computed in float32 and rounded once, as Apple's own converter lowers them.

Each is a composite where its form is one that Apple's compiler names: one operation to it, whatever its body, so that
a float32 statistic doesn't cut a Neural Engine region in two (reported by others: 13 regions, 13.2 ms without, one
region, 2.1 ms with).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """Scale and shift, both reshaped to `along`, in float32; rounded at the end."""
    from coreai import authoring as core

    shape = np.asarray(along, np.uint32)
    if gamma is not None:
        normal = core.broadcasting_mul(normal, core.reshape(core.cast(gamma, np.float32), shape))
    if beta is not None:
        normal = core.broadcasting_add(normal, core.reshape(core.cast(beta, np.float32), shape))
    return core.cast(normal, operands.number)


def _optional(operands: Operands, name: str) -> Value | None:
    if name not in operands:
        return None
    return operands[name]


@bridges("instance_norm")
def instance_norm(operands: Operands) -> Value:
    """Over all but the first two axes."""
    shape = operands.shape("x")
    normal = _normal(operands["x"], shape, range(2, len(shape)), operands.constant("epsilon", 1e-5))
    along = (1, shape[1], *[1] * (len(shape) - 2))
    return _affine(operands, normal, along, _optional(operands, "gamma"), _optional(operands, "beta"))


@bridges("layer_norm")
def layer_norm(operands: Operands) -> Value:
    """Over any axes."""
    shape = operands.shape("x")
    axes = [axis % len(shape) for axis in operands.constant("axes", list(range(len(shape))))]
    epsilon = operands.constant("epsilon", 1e-5)
    along = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    if "gamma" not in operands or "beta" not in operands:
        normal = _normal(operands["x"], shape, axes, epsilon)
        return _affine(operands, normal, along, _optional(operands, "gamma"), _optional(operands, "beta"))

    def body(x: Value, gamma: Value, beta: Value) -> Value:
        return _affine(operands, _normal(x, shape, axes, epsilon), along, gamma, beta)

    taken = {"input": operands["x"], "gamma": operands["gamma"], "beta": operands["beta"]}
    return library.composite_call("layer_norm", body, taken, {"eps": epsilon, "axes": axes})


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

    taken = {"input": operands["x"], "weight": _stored(operands, "gamma"), "bias": _stored(operands, "beta")}
    attributes = {"eps": epsilon, "num_channels": shape[1], "num_groups": groups}
    return library.composite_call("group_norm", body, taken, attributes)


def _stored(operands: Operands, name: str) -> Value:
    """A scale or shift in the type of the result where that loses nothing, as the package stores it; else wide."""
    wide = np.asarray(operands.array(name))
    narrow = wide.astype(operands.number)
    return library.constant(narrow if np.array_equal(narrow.astype(wide.dtype), wide) else wide)


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
    scaled, shift = (library.constant(value.astype(np.float32)) for value in (scale, beta - mean * scale))
    return _affine(operands, core.cast(operands["x"], np.float32), along, scaled, shift)
