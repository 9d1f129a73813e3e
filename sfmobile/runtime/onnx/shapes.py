"""Reshapes, transposes, slices, joins and gathers."""

from __future__ import annotations

import numpy as np

from sfmobile.runtime.onnx.builder import Arguments, GraphBuilder
from sfmobile.runtime.onnx.registry import translates


@translates("reshape", "reshape_like", "flatten2d", "expand_dims", "squeeze")
def reshape(builder: GraphBuilder, arguments: Arguments) -> None:
    """All shapes are static: the result's is a constant."""
    builder.node("Reshape", [arguments["x"], builder.integers(*arguments.out_shape)], arguments.outputs)


@translates("transpose")
def transpose(builder: GraphBuilder, arguments: Arguments) -> None:
    """By a permutation counted from the start."""
    rank = len(arguments.shape("x"))
    perm = [axis % rank for axis in arguments.constant("perm")]
    builder.node("Transpose", [arguments["x"]], arguments.outputs, perm=perm)


@translates("concat")
def concat(builder: GraphBuilder, arguments: Arguments) -> None:
    """One behind the other; interleaving isn't ONNX's."""
    if arguments.constant("interleave", False):
        raise ValueError("has interleave true")
    builder.node("Concat", arguments.all("values"), arguments.outputs, axis=arguments.constant("axis"))


@translates("stack")
def stack(builder: GraphBuilder, arguments: Arguments) -> None:
    """Each with a new axis, one behind the other."""
    axis = arguments.constant("axis") % len(arguments.out_shape)
    parts = [builder.node("Unsqueeze", [value, builder.integers(axis)]) for value in arguments.all("values")]
    builder.node("Concat", parts, arguments.outputs, axis=axis)


@translates("split")
def split(builder: GraphBuilder, arguments: Arguments) -> None:
    """Into the sizes of the results."""
    axis = arguments.constant("axis")
    sizes = [builder.shape(name)[axis] for name in arguments.outputs]
    builder.node("Split", [arguments["x"], builder.integers(*sizes)], arguments.outputs, axis=axis)


@translates("slice_by_index")
def slice_by_index(builder: GraphBuilder, arguments: Arguments) -> None:
    """Explicit begins and ends per axis; squeezed axes are dropped by the final shape."""
    shape = arguments.shape("x")
    rank = len(shape)
    begins, ends = arguments.constant("begin"), arguments.constant("end")
    strides = arguments.constant("stride", [1] * rank)
    masks = {name: arguments.constant(name, [False] * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")}
    starts, stops, steps = [], [], []
    for axis, size in enumerate(shape):
        begin = None if masks["begin_mask"][axis] else begins[axis]
        if masks["squeeze_mask"][axis]:
            place = (begin or 0) % size
            places = range(place, place + 1)
        else:
            end = None if masks["end_mask"][axis] else ends[axis]
            places = range(*slice(begin, end, strides[axis]).indices(size))
        starts.append(places.start)
        # A stop before the first element can't be -1, which would count from the end.
        stops.append(places.stop if places.stop >= 0 else -(2**31))
        steps.append(places.step)
    operands = [arguments["x"], *(builder.integers(*values) for values in (starts, stops, range(rank), steps))]
    taken = builder.node("Slice", operands)
    builder.node("Reshape", [taken, builder.integers(*arguments.out_shape)], arguments.outputs)


@translates("gather")
def gather(builder: GraphBuilder, arguments: Arguments) -> None:
    """Without batch axes."""
    if arguments.constant("batch_dims", 0):
        raise ValueError(f"has batch_dims {arguments.constant('batch_dims')}")
    builder.node(
        "Gather", [arguments["x"], arguments["indices"]], arguments.outputs, axis=arguments.constant("axis", 0)
    )


@translates("tile")
def tile(builder: GraphBuilder, arguments: Arguments) -> None:
    """Each axis as often as said."""
    builder.node("Tile", [arguments["x"], builder.integers(*arguments.constant("reps"))], arguments.outputs)


@translates("pad")
def pad(builder: GraphBuilder, arguments: Arguments) -> None:
    """Amounts of the last axes, before all of them, then behind."""
    rank = len(arguments.shape("x"))
    amounts = arguments.constant("pad")
    whole = [0] * (2 * rank - len(amounts)) + amounts
    mode = arguments.choice("mode", ("constant", "reflect", "replicate"), "constant")
    value = builder.constant(np.array(arguments.constant("constant_val", 0.0), dtype=np.float32))
    operands = [arguments["x"], builder.integers(*whole[::2], *whole[1::2]), value]
    builder.node("Pad", operands, arguments.outputs, mode="edge" if mode == "replicate" else mode)
