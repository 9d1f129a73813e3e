"""Elementwise ops, activations, casts."""

from __future__ import annotations

import numpy as np

from sfmobile.runtime.onnx.builder import Arguments, GraphBuilder
from sfmobile.runtime.onnx.registry import translates

# MIL ops that ONNX has under another name, with operands x and y or x alone.
_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "real_div": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
}
_UNARY = {
    "identity": "Identity",
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "logical_not": "Not",
    "relu": "Relu",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "softplus": "Softplus",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}


@translates(*_BINARY)
def binary(builder: GraphBuilder, arguments: Arguments) -> None:
    """Both operands broadcast as in numpy."""
    kind = _BINARY[arguments.operation.kind]
    builder.node(kind, [arguments["x"], arguments["y"]], arguments.outputs)


@translates(*_UNARY)
def unary(builder: GraphBuilder, arguments: Arguments) -> None:
    """One operand."""
    builder.node(_UNARY[arguments.operation.kind], [arguments["x"]], arguments.outputs)


@translates("square")
def square(builder: GraphBuilder, arguments: Arguments) -> None:
    """x x."""
    builder.node("Mul", [arguments["x"]] * 2, arguments.outputs)


@translates("rsqrt", "inverse", "log")
def shifted(builder: GraphBuilder, arguments: Arguments) -> None:
    """A function of x + epsilon."""
    kind = arguments.operation.kind
    default = {"rsqrt": 1e-12, "inverse": 1e-4, "log": 1e-45}[kind]
    epsilon = builder.constant(np.array(arguments.constant("epsilon", default), dtype=np.float32))
    value = builder.node("Add", [arguments["x"], epsilon])
    if kind == "rsqrt":
        value = builder.node("Sqrt", [value])
    builder.node("Log" if kind == "log" else "Reciprocal", [value], arguments.outputs)


@translates("clip")
def clip(builder: GraphBuilder, arguments: Arguments) -> None:
    """Between alpha and beta."""
    limits = [builder.constant(np.array(arguments.constant(name), dtype=np.float32)) for name in ("alpha", "beta")]
    builder.node("Clip", [arguments["x"], *limits], arguments.outputs)


@translates("leaky_relu")
def leaky_relu(builder: GraphBuilder, arguments: Arguments) -> None:
    """alpha x below zero."""
    builder.node("LeakyRelu", [arguments["x"]], arguments.outputs, alpha=arguments.constant("alpha"))


@translates("silu")
def silu(builder: GraphBuilder, arguments: Arguments) -> None:
    """x sigmoid(x)."""
    builder.node("Mul", [arguments["x"], builder.node("Sigmoid", [arguments["x"]])], arguments.outputs)


@translates("gelu")
def gelu(builder: GraphBuilder, arguments: Arguments) -> None:
    """In its three modes."""
    mode = arguments.choice("mode", ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"), "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        factor = builder.constant(np.array(1.702, dtype=np.float32))
        gate = builder.node("Sigmoid", [builder.node("Mul", [arguments["x"], factor])])
        builder.node("Mul", [arguments["x"], gate], arguments.outputs)
    else:
        approximate = "none" if mode == "EXACT" else "tanh"
        builder.node("Gelu", [arguments["x"]], arguments.outputs, approximate=approximate)


@translates("softmax")
def softmax(builder: GraphBuilder, arguments: Arguments) -> None:
    """Over one axis."""
    builder.node("Softmax", [arguments["x"]], arguments.outputs, axis=arguments.constant("axis", -1))


@translates("select")
def select(builder: GraphBuilder, arguments: Arguments) -> None:
    """a where cond, else b."""
    builder.node("Where", [arguments["cond"], arguments["a"], arguments["b"]], arguments.outputs)


@translates("cast")
def cast(builder: GraphBuilder, arguments: Arguments) -> None:
    """To the type that ONNX holds the result in."""
    from onnx import TensorProto

    dtype = arguments.choice("dtype", ("fp16", "fp32", "int8", "uint8", "int16", "uint16", "int32", "bool"), "fp32")
    kinds = {"fp16": TensorProto.FLOAT, "fp32": TensorProto.FLOAT, "bool": TensorProto.BOOL}
    builder.node("Cast", [arguments["x"]], arguments.outputs, to=kinds.get(dtype, TensorProto.INT32))
