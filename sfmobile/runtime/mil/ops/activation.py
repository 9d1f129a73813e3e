"""Activations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import op


@op("relu", exact=True, fresh=True)
def relu(x: Tensor) -> Tensor:
    """MIL `relu`: max(x, 0)."""
    return F.relu(x)


@op("relu6", exact=True)
def relu6(x: Tensor) -> Tensor:
    """MIL `relu6`: min(max(x, 0), 6)."""
    return F.relu6(x)


@op("clamped_relu")
def clamped_relu(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    """MIL `clamped_relu`: min(x, beta) where x >= 0, else min(alpha x, beta)."""
    return F.leaky_relu(x, alpha).clamp(max=beta)


@op("leaky_relu", fresh=True)
def leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    """MIL `leaky_relu`: x where x >= 0, else alpha x."""
    return F.leaky_relu(x, alpha)


@op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """MIL `prelu`. x (B, C, *D), alpha (C): x where x > 0, else alpha x."""
    return F.prelu(x, alpha)


@op("thresholded_relu", exact=True)
def thresholded_relu(x: Tensor, *, alpha: float) -> Tensor:
    """MIL `thresholded_relu`: x where x >= alpha, else 0."""
    return torch.where(x >= alpha, x, 0.0)


@op("elu")
def elu(x: Tensor, *, alpha: float) -> Tensor:
    """MIL `elu`: x where x > 0, else alpha (exp(x) - 1)."""
    return F.elu(x, alpha)


@op("linear_activation")
def linear_activation(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    """MIL `linear_activation`: alpha x + beta."""
    return x * alpha + beta


@op("sigmoid", fresh=True)
def sigmoid(x: Tensor) -> Tensor:
    """MIL `sigmoid`."""
    return torch.sigmoid(x)


@op("sigmoid_hard")
def sigmoid_hard(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    """MIL `sigmoid_hard`: min(max(alpha x + beta, 0), 1)."""
    return (x * alpha + beta).clamp(0.0, 1.0)


@op("silu", fresh=True)
def silu(x: Tensor) -> Tensor:
    """MIL `silu`: x sigmoid(x)."""
    return F.silu(x)


@op("gelu", fresh=True)
def gelu(x: Tensor, *, mode: Literal["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] = "EXACT") -> Tensor:
    """MIL `gelu`: with erf, or approximated with tanh or with sigmoid(1.702 x)."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@op("softplus")
def softplus(x: Tensor) -> Tensor:
    """MIL `softplus`: log(1 + exp(x))."""
    return F.softplus(x)


@op("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """MIL `softplus_parametric`. x (B, C, *D), alpha and beta (C): alpha log(1 + exp(beta x))."""
    channels = (-1, *(1,) * (x.dim() - 2))
    return alpha.view(channels) * F.softplus(x * beta.view(channels))


@op("softsign")
def softsign(x: Tensor) -> Tensor:
    """MIL `softsign`: x / (1 + |x|)."""
    return F.softsign(x)


@op("scaled_tanh")
def scaled_tanh(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    """MIL `scaled_tanh`: alpha tanh(beta x)."""
    return alpha * torch.tanh(beta * x)


@op("softmax", fresh=True)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """MIL `softmax` over `axis`."""
    return torch.softmax(x, axis)
