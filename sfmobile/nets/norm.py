"""Layer normalisation over the channel axis of (B, C, 1, S)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelLayerNorm(nn.Module):
    """LayerNorm over axis 1 of (B, C, 1, S).

    One operation to torch and to whatever exports it, never its formula spelled out: in float16 the square of an
    activation above 255 is infinite. The Core ML exporter has an operator without the transposes in its place.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, 1, S); same shape out."""
        rows = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, self.eps)
        return rows.permute(0, 3, 1, 2)
