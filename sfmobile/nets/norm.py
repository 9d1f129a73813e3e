"""Layer normalisation over the channel axis of (B, C, 1, S)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelLayerNorm(nn.Module):
    """LayerNorm over axis 1 of (B, C, 1, S).

    Two spellings of one formula: eager execution uses torch's kernel (which computes in fp32 under autocast), an
    export spells it out over axis 1, the pattern that Core ML fuses into one `layer_norm` without transposes.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, 1, S); same shape out."""
        if torch.compiler.is_exporting():
            centred = x - x.mean(dim=1, keepdim=True)
            variance = (centred * centred).mean(dim=1, keepdim=True)
            normal = centred * (variance + self.eps).rsqrt()
            return normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        rows = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, self.eps)
        return rows.permute(0, 3, 1, 2)
