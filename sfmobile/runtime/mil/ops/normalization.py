"""Normalisations. The variance is the biased one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import axis_from_start, op


@op("batch_norm", fresh=True)
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
) -> Tensor:
    """MIL `batch_norm`. x (N, C, *D), all else (C)."""
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


@op("instance_norm", fresh=True)
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, epsilon: float = 1e-5
) -> Tensor:
    """MIL `instance_norm`. x (N, C, *D), gamma and beta (C); statistics per (N, C)."""
    return torch.group_norm(x, x.shape[1], gamma, beta, epsilon)


@op("layer_norm", fresh=True)
def layer_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    axes: tuple[int, ...] | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """MIL `layer_norm` over `axes` (all by default); gamma and beta have the sizes of those axes, in order."""
    rank = x.dim()
    over = sorted(axis_from_start(axis, rank) for axis in (range(rank) if axes is None else axes))
    kept = [axis for axis in range(rank) if axis not in over]
    sizes = [x.shape[axis] for axis in over]
    if over == list(range(len(kept), rank)):
        return F.layer_norm(x, sizes, gamma, beta, epsilon)
    order = [*kept, *over]
    back = [order.index(axis) for axis in range(rank)]
    return F.layer_norm(x.permute(order), sizes, gamma, beta, epsilon).permute(back)


@op("l2_norm")
def l2_norm(x: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """MIL `l2_norm`: x / sqrt(sum of squares over the last three axes + epsilon)."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@op("local_response_norm")
def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """MIL `local_response_norm`. x (N, C, *D): x / (k + alpha / size * sum of squares of `size` channels)^beta."""
    return F.local_response_norm(x, size, alpha, beta, k)
