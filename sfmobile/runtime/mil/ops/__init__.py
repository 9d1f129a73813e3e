"""MIL ops as torch functions, one family a file; importing this package fills the table `OPS`."""

from __future__ import annotations

from sfmobile.runtime.mil.ops import (
    activation,
    attention,
    construction,
    convolution,
    elementwise_binary,
    elementwise_unary,
    gathering,
    joining,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    scattering,
    selection,
    slicing,
    transformation,
)
from sfmobile.runtime.mil.ops.registry import OPS, TORCH_TYPES, Op, op

__all__ = [
    "OPS",
    "TORCH_TYPES",
    "Op",
    "activation",
    "attention",
    "construction",
    "convolution",
    "elementwise_binary",
    "elementwise_unary",
    "gathering",
    "joining",
    "linear",
    "normalization",
    "op",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "scattering",
    "selection",
    "slicing",
    "transformation",
]
