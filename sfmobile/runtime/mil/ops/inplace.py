"""Elementwise ops that write their result over their first operand. Bit for bit what the ordinary ones compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

InPlace: TypeAlias = "Callable[..., Tensor | Sequence[Tensor]]"
SomeInPlace = TypeVar("SomeInPlace", bound="Callable[..., Tensor]")

INPLACE: dict[str, InPlace] = {}


def inplace(kind: str) -> Callable[[SomeInPlace], SomeInPlace]:
    """Register the decorated function as the overwriting form of MIL op `kind`."""

    def register(function: SomeInPlace) -> SomeInPlace:
        INPLACE[kind] = function
        return function

    return register


@inplace("add")
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y over x, as large as the result."""
    return x.add_(y)


@inplace("sub")
def sub(x: Tensor, y: Tensor) -> Tensor:
    """x - y over x, as large as the result."""
    return x.sub_(y)


@inplace("mul")
def mul(x: Tensor, y: Tensor) -> Tensor:
    """x y over x, as large as the result."""
    return x.mul_(y)


@inplace("relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0) over x."""
    return x.relu_()


@inplace("silu")
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) over x."""
    return F.silu(x, inplace=True)


@inplace("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """The logistic function of x, over x."""
    return x.sigmoid_()


@inplace("gelu")
def gelu(x: Tensor, *, mode: Literal["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] = "EXACT") -> Tensor:
    """GELU over x."""
    if mode == "SIGMOID_APPROXIMATION":
        return x.mul_(torch.sigmoid(1.702 * x))
    torch.ops.aten.gelu_(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")
    return x
