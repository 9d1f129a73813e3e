"""Elementwise ops of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import TORCH_TYPES, op


@op("identity", exact=True)
def identity(x: Tensor) -> Tensor:
    """MIL `identity`."""
    return x


@op("abs", exact=True)
def abs_(x: Tensor) -> Tensor:
    """MIL `abs`."""
    return torch.abs(x)


@op("sign", exact=True)
def sign(x: Tensor) -> Tensor:
    """MIL `sign`: -1, 0 or 1."""
    return torch.sign(x)


@op("ceil", exact=True)
def ceil(x: Tensor) -> Tensor:
    """MIL `ceil`."""
    return torch.ceil(x)


@op("floor", exact=True)
def floor(x: Tensor) -> Tensor:
    """MIL `floor`."""
    return torch.floor(x)


@op("round", exact=True)
def round_(x: Tensor) -> Tensor:
    """MIL `round`: to the nearest integer, halves to the even one."""
    return torch.round(x)


@op("clip", exact=True)
def clip(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    """MIL `clip`: min(max(x, alpha), beta)."""
    return torch.clamp(x, alpha, beta)


@op("threshold", exact=True)
def threshold(x: Tensor, *, alpha: float) -> Tensor:
    """MIL `threshold`: max(x, alpha)."""
    return torch.clamp(x, min=alpha)


@op("logical_not", exact=True)
def logical_not(x: Tensor) -> Tensor:
    """MIL `logical_not`."""
    return torch.logical_not(x)


@op("square", fresh=True)
def square(x: Tensor) -> Tensor:
    """MIL `square`."""
    return torch.square(x)


@op("sqrt", fresh=True)
def sqrt(x: Tensor) -> Tensor:
    """MIL `sqrt`."""
    return torch.sqrt(x)


@op("rsqrt", fresh=True)
def rsqrt(x: Tensor, *, epsilon: float = 1e-12) -> Tensor:
    """MIL `rsqrt`: 1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


@op("inverse")
def inverse(x: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """MIL `inverse`: 1 / (x + epsilon)."""
    return torch.reciprocal(x + epsilon)


@op("exp", fresh=True)
def exp(x: Tensor) -> Tensor:
    """MIL `exp`."""
    return torch.exp(x)


@op("exp2")
def exp2(x: Tensor) -> Tensor:
    """MIL `exp2`."""
    return torch.exp2(x).to(x.dtype)


@op("log")
def log(x: Tensor, *, epsilon: float = 1e-45) -> Tensor:
    """MIL `log`, the natural one, of x + epsilon."""
    return torch.log(x + epsilon)


@op("erf")
def erf(x: Tensor) -> Tensor:
    """MIL `erf`."""
    return torch.erf(x)


@op("sin", fresh=True)
def sin(x: Tensor) -> Tensor:
    """MIL `sin`."""
    return torch.sin(x)


@op("cos", fresh=True)
def cos(x: Tensor) -> Tensor:
    """MIL `cos`."""
    return torch.cos(x)


@op("tan")
def tan(x: Tensor) -> Tensor:
    """MIL `tan`."""
    return torch.tan(x)


@op("asin")
def asin(x: Tensor) -> Tensor:
    """MIL `asin`."""
    return torch.asin(x)


@op("acos")
def acos(x: Tensor) -> Tensor:
    """MIL `acos`."""
    return torch.acos(x)


@op("atan")
def atan(x: Tensor) -> Tensor:
    """MIL `atan`."""
    return torch.atan(x)


@op("sinh")
def sinh(x: Tensor) -> Tensor:
    """MIL `sinh`."""
    return torch.sinh(x)


@op("cosh")
def cosh(x: Tensor) -> Tensor:
    """MIL `cosh`."""
    return torch.cosh(x)


@op("tanh", fresh=True)
def tanh(x: Tensor) -> Tensor:
    """MIL `tanh`."""
    return torch.tanh(x)


@op("atanh")
def atanh(x: Tensor) -> Tensor:
    """MIL `atanh`."""
    return torch.atanh(x)


@op("cast")
def cast(x: Tensor, *, dtype: str) -> Tensor:
    """MIL `cast`: floats to integers towards zero, anything to bool as x != 0."""
    if dtype not in TORCH_TYPES:
        raise ValueError(f"has dtype '{dtype}'")
    if dtype in ("uint16", "uint32"):
        # Held in a wider signed type: the value wraps as it would in its own.
        return x.to(torch.int64).bitwise_and(0xFFFF if dtype == "uint16" else 0xFFFFFFFF).to(TORCH_TYPES[dtype])
    return x.to(TORCH_TYPES[dtype])
