"""The decoder of a tiny autoencoder (TAESD): convolutions and ReLU alone, for previews and for phones in a hurry.

madebyollin/taesd, diffusers' `AutoencoderTiny`. It decodes the latents of a large autoencoder as they are, without
their scaling factor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.layout import TinyAutoencoderLayout

# Latents are bounded smoothly to this.
BOUND = 3.0


class TinyBlock(nn.Module):
    """Three convolutions around a residual, ReLU between and behind."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), same shape out."""
        return F.relu(self.conv(x) + x)


class TinyDecoder(nn.Module):
    """Latents to image. Weight names are diffusers' `DecoderTiny`."""

    def __init__(self, layout: TinyAutoencoderLayout) -> None:
        super().__init__()
        self.layout = layout
        width = layout.decoder_width
        layers: list[nn.Module] = [nn.Conv2d(layout.latent_channels, width, kernel_size=3, padding=1), nn.ReLU()]
        for level, blocks in enumerate(layout.decoder_blocks):
            last = level == len(layout.decoder_blocks) - 1
            layers += [TinyBlock(width) for _ in range(blocks)]
            if not last:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(nn.Conv2d(width, 3 if last else width, kernel_size=3, padding=1, bias=last))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """latents (B, latent_channels, h, w), of the loop; returns (B, 3, f*h, f*w), about [-1, 1] and not clamped."""
        image: Tensor = self.layers(torch.tanh(latents * (1 / BOUND)) * BOUND)
        return image * 2.0 - 1.0
