"""Arithmetic and activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfmobile.runtime.coreai.builder import Operands
from sfmobile.runtime.coreai.registry import bridges

if TYPE_CHECKING:
    from coreai.authoring import Value


@bridges("add", "sub", "mul", "real_div", "maximum", "minimum", "pow")
def arithmetic(operands: Operands) -> Value:
    """With broadcasting, as MIL has it."""
    from coreai import authoring as core

    functions = {
        "add": core.broadcasting_add,
        "sub": core.broadcasting_sub,
        "mul": core.broadcasting_mul,
        "real_div": core.broadcasting_divide,
        "maximum": core.broadcasting_maximum,
        "minimum": core.broadcasting_minimum,
        "pow": core.broadcasting_pow,
    }
    return functions[operands.operation.kind](operands["x"], operands["y"])


@bridges("silu", "sigmoid", "relu", "exp", "sqrt", "tanh", "square", "erf", "cos", "sin")
def unary(operands: Operands) -> Value:
    """One operation each."""
    from coreai import authoring as core

    x = operands["x"]
    if operands.operation.kind == "square":
        return core.broadcasting_mul(x, x)
    functions = {
        "silu": core.silu,
        "sigmoid": core.sigmoid,
        "relu": core.relu,
        "exp": core.exp,
        "sqrt": core.sqrt,
        "tanh": core.tanh,
        "erf": core.erf,
        "cos": core.cos,
        "sin": core.sin,
    }
    return functions[operands.operation.kind](x)


@bridges("rsqrt")
def rsqrt(operands: Operands) -> Value:
    """1 / sqrt(x + epsilon)."""
    from coreai import authoring as core

    epsilon = operands.number(operands.constant("epsilon", 1e-12))
    return core.rsqrt(core.broadcasting_add(operands["x"], np.asarray(epsilon)))


@bridges("gelu")
def gelu(operands: Operands) -> Value:
    """The exact one, by the error function."""
    from coreai import authoring as core

    operands.choice("mode", ("EXACT",), "EXACT")
    if not operands.builder.widened:
        return core.gelu(operands["x"])
    return core.cast(core.gelu(core.cast(operands["x"], np.float32)), operands.number)


@bridges("softmax")
def softmax(operands: Operands) -> Value:
    """Along one axis."""
    from coreai import authoring as core

    axis = operands.constant("axis", -1) % len(operands.shape("x"))
    return core.softmax(operands["x"], np.asarray(axis, np.int32))


@bridges("cast")
def cast(operands: Operands) -> Value:
    """To the type that the program declares, widened in fp32."""
    from coreai import authoring as core

    return core.cast(operands["x"], operands.number)
