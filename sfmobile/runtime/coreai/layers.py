"""Convolutions, matrix products, upsampling, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.runtime.coreai.builder import Operands
from sfmobile.runtime.coreai.registry import bridges
from sfmobile.runtime.mil.ops.convolution import spatial_padding

if TYPE_CHECKING:
    from coreai.authoring import Value

_PAD_TYPES = ("valid", "same", "same_lower", "custom")


@bridges("conv")
def conv(operands: Operands) -> Value:
    """Padded first: Core AI's convolution has none of its own."""
    from coreai import authoring as core

    sizes, kernel = operands.shape("x")[2:], operands.shape("weight")[2:]
    if len(sizes) != 2:
        raise ValueError(f"has {len(sizes)} spatial dimensions")
    strides, dilations = operands.constant("strides", [1, 1]), operands.constant("dilations", [1, 1])
    amounts = spatial_padding(
        operands.choice("pad_type", _PAD_TYPES, "valid"),  # type: ignore[arg-type]
        operands.constant("pad"),
        sizes,
        kernel,
        tuple(strides),
        tuple(dilations),
    )
    x = operands["x"]
    if any(amount for pair in amounts for amount in pair):
        ends = [0, 0, 0, 0, *(amount for pair in amounts for amount in pair)]
        x = core.pad(x, np.asarray(ends, np.uint32), np.asarray(operands.number(0)))
    groups = np.asarray(operands.constant("groups", 1), np.uint32)
    y = core.conv2d(x, operands["weight"], np.asarray(strides, np.uint32), np.asarray(dilations, np.uint32), groups)
    if "bias" not in operands:
        return y
    along = np.asarray((1, operands.out_shape[1], 1, 1), np.uint32)
    return core.broadcasting_add(y, core.reshape(operands["bias"], along))


def product(operands: Operands, multiply: Callable[[Value, Value], Value], x: Value, y: Value) -> Value:
    """A matrix product; widened, in float32 and rounded once."""
    from coreai import authoring as core

    if not operands.builder.widened:
        return multiply(x, y)
    return core.cast(multiply(core.cast(x, np.float32), core.cast(y, np.float32)), operands.number)


def turned(value: Value, rank: int) -> Value:
    """With its last two axes exchanged."""
    from coreai import authoring as core

    return core.transpose(value, np.asarray([*range(rank - 2), rank - 1, rank - 2], np.uint32))


@bridges("matmul")
def matmul(operands: Operands) -> Value:
    """Transposed operands are transposed first."""
    from coreai import authoring as core

    factors = []
    for name in ("x", "y"):
        value, rank = operands[name], len(operands.shape(name))
        factors.append(turned(value, rank) if operands.constant(f"transpose_{name}", False) else value)
    return product(operands, core.broadcasting_batch_matmul, *factors)


@bridges("linear")
def linear(operands: Operands) -> Value:
    """x weight^T + bias."""
    from coreai import authoring as core

    multiplied = product(operands, core.broadcasting_batch_matmul, operands["x"], turned(operands["weight"], 2))
    return core.broadcasting_add(multiplied, operands["bias"]) if "bias" in operands else multiplied


@bridges("einsum")
def einsum(operands: Operands) -> Value:
    """Two operands, every index in at most one of each: a batched matrix product between two transpositions."""
    from coreai import authoring as core

    terms, result = operands.constant("equation").replace(" ", "").split("->")
    first, second = terms.split(",")
    sizes = dict(zip(first + second, operands.shape("values") + operands.shape("values", 1), strict=True))
    batch = [index for index in result if index in first and index in second]
    summed = [index for index in first if index in second and index not in result]
    rows = [index for index in result if index in first and index not in second]
    columns = [index for index in result if index in second and index not in first]
    if {*batch, *summed, *rows} != set(first) or {*batch, *summed, *columns} != set(second):
        raise ValueError(f"sums within one operand ('{terms}->{result}')")

    def flat(value: Value, term: str, *groups: list[str]) -> Value:
        order = [term.index(index) for group in groups for index in group]
        shape = [math.prod(sizes[index] for index in group) for group in groups]
        return core.reshape(core.transpose(value, np.asarray(order, np.uint32)), np.asarray(shape, np.uint32))

    x, y = operands.all("values")
    multiplied = product(
        operands, core.batch_matmul, flat(x, first, batch, rows, summed), flat(y, second, batch, summed, columns)
    )
    order = [*batch, *rows, *columns]
    shaped = core.reshape(multiplied, np.asarray([sizes[index] for index in order], np.uint32))
    return core.transpose(shaped, np.asarray([order.index(index) for index in result], np.uint32))


@bridges("upsample_nearest_neighbor")
def upsample_nearest(operands: Operands) -> Value:
    """By whole factors, as repetition of rows and columns.

    That stays on the Neural Engine where `interpolate` goes to the CPU, as users of Core AI report.
    """
    from coreai import authoring as core

    batch, channels, height, width = operands.shape("x")
    factors = [float(operands.constant(f"scale_factor_{side}", 1)) for side in ("height", "width")]
    if any(factor != round(factor) for factor in factors):
        raise ValueError(f"enlarges by {factors}")
    down, across = (round(factor) for factor in factors)
    cells = core.reshape(operands["x"], np.asarray((batch, channels, height, 1, width, 1), np.uint32))
    wide = np.asarray((batch, channels, height, down, width, across), np.uint32)
    return core.reshape(core.broadcast_to(cells, wide), np.asarray(operands.out_shape, np.uint32))


@bridges("reduce_mean", "reduce_sum", "reduce_max", "reduce_min")
def reduction(operands: Operands) -> Value:
    """Over all axes unless told."""
    from coreai import authoring as core

    functions = {
        "reduce_mean": core.reduce_mean,
        "reduce_sum": core.reduce_sum,
        "reduce_max": core.reduce_max,
        "reduce_min": core.reduce_min,
    }
    rank = len(operands.shape("x"))
    axes = sorted(axis % rank for axis in operands.constant("axes", list(range(rank))))
    reduced = functions[operands.operation.kind](operands["x"], np.asarray(axes, np.int32))
    return core.reshape(reduced, np.asarray(operands.out_shape, np.uint32))
