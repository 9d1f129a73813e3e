"""Windows over images: pooling, transposed convolution, interpolation, gathered elements."""

from __future__ import annotations

from typing import Any

from sfmobile.runtime.mil.ops.convolution import spatial_padding
from sfmobile.runtime.onnx.builder import Arguments, GraphBuilder
from sfmobile.runtime.onnx.registry import translates

_PAD_TYPES = ("valid", "same", "same_lower", "custom")


@translates("max_pool", "avg_pool")
def pool(builder: GraphBuilder, arguments: Arguments) -> None:
    """Sizes are rounded down; where they are rounded up, runtimes differ in which windows count."""
    if arguments.constant("ceil_mode", False):
        raise ValueError("has ceil_mode")
    sizes, kernel = arguments.shape("x")[2:], arguments.constant("kernel_sizes")
    strides = arguments.constant("strides", [1] * len(sizes))
    amounts = spatial_padding(
        arguments.choice("pad_type", _PAD_TYPES, "valid"),  # type: ignore[arg-type]
        arguments.constant("pad"),
        sizes,
        tuple(kernel),
        tuple(strides),
        (1,) * len(sizes),
    )
    maximum = arguments.operation.kind == "max_pool"
    excluded = bool(arguments.constant("exclude_padding_from_average", False))
    counted: dict[str, Any] = {} if maximum else {"count_include_pad": int(not excluded)}
    builder.node(
        "MaxPool" if maximum else "AveragePool",
        [arguments["x"]],
        arguments.outputs,
        kernel_shape=kernel,
        strides=strides,
        pads=[before for before, _ in amounts] + [after for _, after in amounts],
        **counted,
    )


@translates("conv_transpose")
def conv_transpose(builder: GraphBuilder, arguments: Arguments) -> None:
    """What the program cuts off before and behind is ONNX's padding."""
    sizes, kernel = arguments.shape("x")[2:], arguments.shape("weight")[2:]
    ones = [1] * len(sizes)
    strides, dilations = arguments.constant("strides", ones), arguments.constant("dilations", ones)
    full = [
        (size - 1) * stride + (width - 1) * dilation + 1
        for size, stride, width, dilation in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    pad_type = arguments.choice("pad_type", _PAD_TYPES, "valid")
    wanted = arguments.out_shape[2:]
    spare = [size - target for size, target in zip(full, wanted, strict=True)]
    if pad_type in ("same", "same_lower"):
        lower = pad_type == "same_lower"
        whole = [size - count * stride for size, count, stride in zip(full, sizes, strides, strict=True)]
        before = [max(0, extra - extra // 2 if lower else extra // 2) for extra in whole]
    else:
        pad = arguments.constant("pad") if pad_type == "custom" else None
        before = [0] * len(sizes) if pad is None else pad[::2]
    behind = [extra - cut for extra, cut in zip(spare, before, strict=True)]
    if min(behind, default=0) < 0:
        raise ValueError(f"asks for {wanted} of {tuple(full)} computed places")
    operands = [arguments["x"], arguments["weight"], *([arguments["bias"]] if "bias" in arguments else [])]
    builder.node(
        "ConvTranspose",
        operands,
        arguments.outputs,
        strides=strides,
        dilations=dilations,
        pads=[*before, *behind],
        group=arguments.constant("groups", 1),
    )


@translates("upsample_bilinear", "resize_bilinear")
def bilinear(builder: GraphBuilder, arguments: Arguments) -> None:
    """With corners on corners, or pixels as areas; the other samplings have no name in ONNX."""
    if arguments.operation.kind == "resize_bilinear":
        mode = arguments.choice("sampling_mode", ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"), "DEFAULT")
        aligned = mode == "STRICT_ALIGN_CORNERS"
    else:
        aligned = bool(arguments.constant("align_corners", True))
        if bool(arguments.constant("half_pixel_centers", not aligned)) == aligned:
            raise ValueError(f"has align_corners {aligned} with half_pixel_centers {aligned}")
    if len(arguments.out_shape) != 4:
        raise ValueError(f"resizes a value of rank {len(arguments.out_shape)}")
    builder.node(
        "Resize",
        [arguments["x"], "", "", builder.integers(*arguments.out_shape)],
        arguments.outputs,
        mode="linear",
        coordinate_transformation_mode="align_corners" if aligned else "half_pixel",
    )


@translates("gather_nd")
def gather_nd(builder: GraphBuilder, arguments: Arguments) -> None:
    """ONNX's own, with whole numbers of 64 bits."""
    from onnx import TensorProto

    wide = builder.node("Cast", [arguments["indices"]], to=TensorProto.INT64)
    builder.node("GatherND", [arguments["x"], wide], arguments.outputs, batch_dims=arguments.constant("batch_dims", 0))


@translates("gather_along_axis")
def gather_along_axis(builder: GraphBuilder, arguments: Arguments) -> None:
    """ONNX's GatherElements."""
    operands = [arguments["x"], arguments["indices"]]
    builder.node("GatherElements", operands, arguments.outputs, axis=arguments.constant("axis", 0))


@translates("pixel_shuffle")
def pixel_shuffle(builder: GraphBuilder, arguments: Arguments) -> None:
    """Channels lie as ONNX's CRD has them."""
    factor = arguments.constant("upscale_factor")
    builder.node("DepthToSpace", [arguments["x"]], arguments.outputs, blocksize=factor, mode="CRD")
