"""Operators that torch.export keeps whole and `mil_ops` lowers to what Core ML has for them.

Spelled out in torch, a normalisation is half a dozen operations that a converter must recognise again, and that
overflow fp16 where it doesn't (`square` is infinite above 255); attention split by heads is hundreds. As operators of
their own they are traced once and become exactly the operations we choose. `replace_modules` puts them into a network
that is about to be traced; eagerly they compute what the modules they replace compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import QUERY_CHUNK, Attention, attend_original, attend_split
from sfmobile.nets.norm import ChannelLayerNorm


@torch.library.custom_op("sfmobile::group_norm", mutates_args=())
def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """GroupNorm of (B, C, H, W) with affine weight and bias (C,)."""
    return F.group_norm(x, groups, weight, bias, eps)


@group_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("sfmobile::channel_layer_norm", mutates_args=())
def channel_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over axis 1 of (B, C, 1, S) with affine weight and bias (C,)."""
    rows = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), weight, bias, eps)
    return rows.permute(0, 3, 1, 2).contiguous()


@channel_layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("sfmobile::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, split: bool, chunk: int) -> Tensor:
    """Attention of q (B, C, 1, Q) over k, v (B, C, 1, K) with mask (Q, K) added to the scores; (B, C, 1, Q).

    split: one head at a time; chunk: at most so many queries at a time, 0 for all.
    """
    if split:
        return attend_split(q, k, v, heads, mask, chunk or None).contiguous()
    return attend_original(q, k, v, heads, mask).contiguous()


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, split: bool, chunk: int) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


class ExportedGroupNorm(nn.Module):
    """`nn.GroupNorm` as one operator; shares its parameters."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = norm.weight, norm.bias, norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), same shape out."""
        normal: Tensor = group_norm(x, self.weight, self.bias, self.groups, self.eps)
        return normal


class ExportedChannelLayerNorm(nn.Module):
    """`ChannelLayerNorm` as one operator; shares its parameters."""

    def __init__(self, norm: ChannelLayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S), same shape out."""
        normal: Tensor = channel_layer_norm(x, self.weight, self.bias, self.eps)
        return normal


class ExportedAttention(nn.Module):
    """`Attention` in its form, the part between the projections as one operator; shares its modules."""

    def __init__(self, module: Attention) -> None:
        super().__init__()
        self.heads, self.form = module.heads, module.form
        self.to_q, self.to_k, self.to_v, self.to_out = module.to_q, module.to_k, module.to_v, module.to_out

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, C, 1, Q), context (B, C', 1, K), mask (Q, K); returns (B, C, 1, Q)."""
        source = x if context is None else context
        split = self.form != "original"
        chunk = QUERY_CHUNK if self.form == "split-einsum-v2" else 0
        out = attention(self.to_q(x), self.to_k(source), self.to_v(source), mask, self.heads, split, chunk)
        projected: Tensor = self.to_out[0](out)
        return projected


def replace_modules(net: nn.Module) -> None:
    """Put the operators in place of the norms and attention blocks below `net`; parameter names stay."""
    for name, child in net.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(net, name, ExportedGroupNorm(child))
        elif isinstance(child, ChannelLayerNorm):
            setattr(net, name, ExportedChannelLayerNorm(child))
        elif isinstance(child, Attention):
            setattr(net, name, ExportedAttention(child))
        else:
            replace_modules(child)
