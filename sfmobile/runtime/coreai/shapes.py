"""Views, joins, cuts and look-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfmobile.runtime.coreai.builder import Operands
from sfmobile.runtime.coreai.registry import bridges

if TYPE_CHECKING:
    from coreai.authoring import Value


@bridges("reshape", "expand_dims", "squeeze")
def reshape(operands: Operands) -> Value:
    """To the declared shape."""
    from coreai import authoring as core

    return core.reshape(operands["x"], np.asarray(operands.out_shape, np.uint32))


@bridges("transpose")
def transpose(operands: Operands) -> Value:
    """MIL's negative axes are counted from the front."""
    from coreai import authoring as core

    rank = len(operands.shape("x"))
    return core.transpose(operands["x"], np.asarray([axis % rank for axis in operands.constant("perm")], np.uint32))


@bridges("concat")
def concat(operands: Operands) -> Value:
    """Along one axis; MIL's interleaving has no counterpart."""
    from coreai import authoring as core

    if operands.constant("interleave", False):
        raise ValueError("interleaves")
    axis = operands.constant("axis") % len(operands.out_shape)
    return core.concat(np.asarray(axis, np.int32), operands.all("values"))


@bridges("split")
def split(operands: Operands) -> list[Value]:
    """Into the declared sizes."""
    from coreai import authoring as core

    axis = operands.constant("axis") % len(operands.shape("x"))
    sizes = [shape[axis] for shape in operands.out_shapes]
    return list(core.split(operands["x"], np.asarray(sizes, np.uint32), np.asarray(axis, np.int32)))


@bridges("slice_by_index", "slice_by_size")
def cut(operands: Operands) -> Value:
    """A box of the operand, with strides; `begin` alone where `end` is left open."""
    from coreai import authoring as core

    shape = operands.shape("x")
    rank = len(shape)
    if any(operands.constant("squeeze_mask", [False])):
        raise ValueError("squeezes what it cuts")
    strides = operands.constant("stride", [1] * rank)
    if min(strides) < 1:
        raise ValueError("cuts backwards")
    masks = [operands.constant(f"{name}_mask", [False] * rank) for name in ("begin", "end")]
    begin = [
        0 if open_ else max(place % size if place < 0 else place, 0)
        for place, size, open_ in zip(operands.constant("begin"), shape, masks[0], strict=True)
    ]
    end = [
        start + (count - 1) * stride + 1
        for start, count, stride in zip(begin, operands.out_shape, strides, strict=True)
    ]
    return core.slice_(operands["x"], *(np.asarray(part, np.int32) for part in (begin, end, strides)))


@bridges("gather")
def gather(operands: Operands) -> Value:
    """Rows of a table: axis 0 and no batch dimensions, as token embeddings are looked up."""
    from coreai import authoring as core

    if operands.constant("axis", 0) != 0 or operands.constant("batch_dims", 0) != 0:
        raise ValueError("gathers along another axis than the first")
    indices = np.asarray((*operands.shape("indices"), 1), np.uint32)
    return core.gather_nd(operands["x"], core.reshape(operands["indices"], indices))


@bridges("pad")
def pad(operands: Operands) -> Value:
    """With a constant value, at the ends of the last axes."""
    from coreai import authoring as core

    operands.choice("mode", ("constant",), "constant")
    amounts = operands.constant("pad")
    missing = 2 * len(operands.shape("x")) - len(amounts)
    value = operands.number(operands.constant("constant_val", 0.0))
    return core.pad(operands["x"], np.asarray([0] * missing + amounts, np.uint32), np.asarray(value))
