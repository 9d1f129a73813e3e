"""Convolutions, matrix products, normalisations, pooling, resizing."""

from __future__ import annotations

import numpy as np

from sfmobile.runtime.mil.ops.convolution import spatial_padding
from sfmobile.runtime.onnx.builder import Arguments, GraphBuilder
from sfmobile.runtime.onnx.registry import translates

_PAD_TYPES = ("valid", "same", "same_lower", "custom")


@translates("conv")
def conv(builder: GraphBuilder, arguments: Arguments) -> None:
    """ONNX takes the padding before all axes, then behind all axes."""
    sizes, kernel = arguments.shape("x")[2:], arguments.shape("weight")[2:]
    ones = [1] * len(sizes)
    strides, dilations = arguments.constant("strides", ones), arguments.constant("dilations", ones)
    amounts = spatial_padding(
        arguments.choice("pad_type", _PAD_TYPES, "valid"),  # type: ignore[arg-type]
        arguments.constant("pad"),
        sizes,
        kernel,
        tuple(strides),
        tuple(dilations),
    )
    operands = [arguments["x"], arguments["weight"]]
    if "bias" in arguments:
        operands.append(arguments["bias"])
    builder.node(
        "Conv",
        operands,
        arguments.outputs,
        strides=strides,
        dilations=dilations,
        pads=[before for before, _ in amounts] + [after for _, after in amounts],
        group=arguments.constant("groups", 1),
    )


@translates("linear")
def linear(builder: GraphBuilder, arguments: Arguments) -> None:
    """x weight^T + bias."""
    turned = builder.node("Transpose", [arguments["weight"]], perm=[1, 0])
    if "bias" not in arguments:
        builder.node("MatMul", [arguments["x"], turned], arguments.outputs)
        return
    product = builder.node("MatMul", [arguments["x"], turned])
    builder.node("Add", [product, arguments["bias"]], arguments.outputs)


@translates("matmul")
def matmul(builder: GraphBuilder, arguments: Arguments) -> None:
    """Transposed operands are transposed first."""
    operands = []
    for name in ("x", "y"):
        value, rank = arguments[name], len(arguments.shape(name))
        if arguments.constant(f"transpose_{name}", False) and rank > 1:
            value = builder.node("Transpose", [value], perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(value)
    builder.node("MatMul", operands, arguments.outputs)


@translates("einsum")
def einsum(builder: GraphBuilder, arguments: Arguments) -> None:
    """The equation is ONNX's too."""
    builder.node("Einsum", arguments.all("values"), arguments.outputs, equation=arguments.constant("equation"))


@translates("batch_norm")
def batch_norm(builder: GraphBuilder, arguments: Arguments) -> None:
    """Missing affine parameters are ones and zeros."""
    channels = arguments.shape("x")[1]
    gamma = arguments["gamma"] if "gamma" in arguments else builder.constant(np.ones(channels, np.float32))
    beta = arguments["beta"] if "beta" in arguments else builder.constant(np.zeros(channels, np.float32))
    builder.node(
        "BatchNormalization",
        [arguments["x"], gamma, beta, arguments["mean"], arguments["variance"]],
        arguments.outputs,
        epsilon=arguments.constant("epsilon", 1e-5),
    )


@translates("instance_norm")
def instance_norm(builder: GraphBuilder, arguments: Arguments) -> None:
    """Missing affine parameters are ones and zeros."""
    channels = arguments.shape("x")[1]
    gamma = arguments["gamma"] if "gamma" in arguments else builder.constant(np.ones(channels, np.float32))
    beta = arguments["beta"] if "beta" in arguments else builder.constant(np.zeros(channels, np.float32))
    epsilon = arguments.constant("epsilon", 1e-5)
    builder.node("InstanceNormalization", [arguments["x"], gamma, beta], arguments.outputs, epsilon=epsilon)


@translates("fused.group_norm")
def group_norm(builder: GraphBuilder, arguments: Arguments) -> None:
    """Statistics per group, then scale and shift per channel."""
    shape = arguments.shape("x")
    groups = arguments.constant("groups")
    grouped = builder.node("Reshape", [arguments["x"], builder.integers(shape[0], groups, -1)])
    ones, zeros = (builder.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    epsilon = arguments.constant("epsilon")
    normal = builder.node("InstanceNormalization", [grouped, ones, zeros], epsilon=epsilon)
    back = builder.node("Reshape", [normal, builder.integers(*shape)])
    along = builder.integers(1, shape[1], *[1] * (len(shape) - 2))
    scaled = builder.node("Mul", [back, builder.node("Reshape", [arguments["gamma"], along])])
    builder.node("Add", [scaled, builder.node("Reshape", [arguments["beta"], along])], arguments.outputs)


@translates("layer_norm")
def layer_norm(builder: GraphBuilder, arguments: Arguments) -> None:
    """ONNX normalises trailing axes: others are brought there and back."""
    shape = arguments.shape("x")
    rank = len(shape)
    over = sorted(axis % rank for axis in arguments.constant("axes", list(range(rank))))
    kept = [axis for axis in range(rank) if axis not in over]
    order = [*kept, *over]
    sizes = [shape[axis] for axis in over]
    gamma = arguments["gamma"] if "gamma" in arguments else builder.constant(np.ones(sizes, np.float32))
    operands = [arguments["x"], gamma, *([arguments["beta"]] if "beta" in arguments else [])]
    epsilon = arguments.constant("epsilon", 1e-5)
    if order == sorted(order):
        builder.node("LayerNormalization", operands, arguments.outputs, axis=len(kept), epsilon=epsilon)
        return
    operands[0] = builder.node("Transpose", [operands[0]], perm=order)
    normal = builder.node("LayerNormalization", operands, axis=len(kept), epsilon=epsilon)
    back = [order.index(axis) for axis in range(rank)]
    builder.node("Transpose", [normal], arguments.outputs, perm=back)


@translates("reduce_mean", "reduce_sum", "reduce_max", "reduce_min")
def reduction(builder: GraphBuilder, arguments: Arguments) -> None:
    """Over all axes unless told."""
    kind = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}
    axes = arguments.constant("axes", list(range(len(arguments.shape("x")))))
    builder.node(
        kind[arguments.operation.kind.removeprefix("reduce_")],
        [arguments["x"], builder.integers(*axes)],
        arguments.outputs,
        keepdims=int(arguments.constant("keep_dims", False)),
    )


@translates("upsample_nearest_neighbor", "resize_nearest_neighbor")
def nearest(builder: GraphBuilder, arguments: Arguments) -> None:
    """out[i] = x[floor(i size / target)]."""
    builder.node(
        "Resize",
        [arguments["x"], "", "", builder.integers(*arguments.out_shape)],
        arguments.outputs,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
