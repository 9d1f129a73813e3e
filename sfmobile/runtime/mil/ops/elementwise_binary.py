"""Elementwise ops of two tensors, with numpy's broadcasting."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op


@op("add", fresh=True)
def add(x: Tensor, y: Tensor) -> Tensor:
    """MIL `add`."""
    return torch.add(x, y)


@op("sub", fresh=True)
def sub(x: Tensor, y: Tensor) -> Tensor:
    """MIL `sub`."""
    return torch.sub(x, y)


@op("mul", fresh=True)
def mul(x: Tensor, y: Tensor) -> Tensor:
    """MIL `mul`."""
    return torch.mul(x, y)


@op("real_div", fresh=True)
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """MIL `real_div`; integers are divided towards zero, for the result is an integer too."""
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@op("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """MIL `floor_div`: floor(x / y)."""
    return torch.div(x, y, rounding_mode="floor")


@op("mod")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """MIL `mod`: x - floor(x / y) y, with the sign of y."""
    return torch.remainder(x, y)


@op("pow")
def pow_(x: Tensor, y: Tensor) -> Tensor:
    """MIL `pow`: x to the power of y."""
    return torch.pow(x, y)


@op("maximum", exact=True)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """MIL `maximum`."""
    return torch.maximum(x, y)


@op("minimum", exact=True)
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """MIL `minimum`."""
    return torch.minimum(x, y)


@op("equal", exact=True)
def equal(x: Tensor, y: Tensor) -> Tensor:
    """MIL `equal`."""
    return torch.eq(x, y)


@op("not_equal", exact=True)
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    """MIL `not_equal`."""
    return torch.ne(x, y)


@op("greater", exact=True)
def greater(x: Tensor, y: Tensor) -> Tensor:
    """MIL `greater`."""
    return torch.gt(x, y)


@op("greater_equal", exact=True)
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """MIL `greater_equal`."""
    return torch.ge(x, y)


@op("less", exact=True)
def less(x: Tensor, y: Tensor) -> Tensor:
    """MIL `less`."""
    return torch.lt(x, y)


@op("less_equal", exact=True)
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    """MIL `less_equal`."""
    return torch.le(x, y)


@op("logical_and", exact=True)
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """MIL `logical_and`."""
    return torch.logical_and(x, y)


@op("logical_or", exact=True)
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """MIL `logical_or`."""
    return torch.logical_or(x, y)


@op("logical_xor", exact=True)
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """MIL `logical_xor`."""
    return torch.logical_xor(x, y)
