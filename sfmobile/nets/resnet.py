"""Residual blocks and resampling, shared by the UNet and the autoencoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import pointwise


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, around a shortcut; the time embedding is added in between.

    With `gate` (broadcastable to (B, C, H, W)) the residual is scaled: 0 turns the block into the identity (or its
    1x1 shortcut where widths differ), which is how robust training drops blocks.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, time_channels: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = pointwise(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.conv_shortcut = pointwise(in_channels, out_channels) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        """x (B, in, H, W), time (B, time_channels, 1, 1) already through SiLU; returns (B, out, H, W)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            hidden = hidden + self.time_emb_proj(time)
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if gate is not None:
            hidden = hidden * gate
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut + hidden


class Downsample(nn.Module):
    """Stride-2 3x3 convolution. `asymmetric` pads right and bottom only, as the KL autoencoder does."""

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Nearest-neighbour 2x upsampling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
