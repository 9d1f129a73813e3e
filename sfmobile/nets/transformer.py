"""The cross-attention block of the UNet: a transformer layer over pixels, conditioned on the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import Attention, pointwise
from sfmobile.nets.norm import ChannelLayerNorm


class GEGLU(nn.Module):
    """Gated linear unit with exact GELU: (B, C, 1, S) to (B, inner, 1, S)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = pointwise(channels, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        """Value half times GELU of the gate half."""
        x = self.proj(x)
        value, gate = torch.split(x, x.shape[1] // 2, dim=1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU up to 4x the width and a projection back (`net.0`, `net.2` as in diffusers)."""

    def __init__(self, channels: int, multiplier: int = 4) -> None:
        super().__init__()
        inner = channels * multiplier
        self.net = nn.ModuleList([GEGLU(channels, inner), nn.Identity(), pointwise(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S), same shape out."""
        for layer in self.net:
            x = layer(x)
        return x


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each behind a LayerNorm and around a residual."""

    def __init__(self, channels: int, heads: int, context_channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = ChannelLayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_channels)
        self.norm3 = ChannelLayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, C, 1, S), context (B, C', 1, K)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class CrossAttentionBlock(nn.Module):
    """Transformer over the pixels of (B, C, H, W) with text as context, around a residual (diffusers' Transformer2D).

    With `gate` (broadcastable to (B, C, H, W)) the residual is scaled; 0 is the identity.
    """

    def __init__(self, channels: int, heads: int, context_channels: int, groups: int, depth: int = 1) -> None:
        """`depth`: its transformer layers, one behind the other."""
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = pointwise(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [TransformerLayer(channels, heads, context_channels) for _ in range(depth)]
        )
        self.proj_out = pointwise(channels, channels)

    def forward(self, x: Tensor, context: Tensor, gate: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), context (B, C', 1, K)."""
        batch, channels, height, width = x.shape
        hidden = self.proj_in(self.norm(x)).reshape(batch, channels, 1, height * width)
        for layer in self.transformer_blocks:
            hidden = layer(hidden, context)
        hidden = self.proj_out(hidden).reshape(batch, channels, height, width)
        return x + (hidden if gate is None else hidden * gate)
