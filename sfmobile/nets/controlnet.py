"""A ControlNet (arXiv 2302.05543): what a picture adds to a UNet's skip connections and to its middle."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import pointwise
from sfmobile.nets.layout import ControlNetLayout
from sfmobile.nets.unet import ContractingPath


class ConditioningEmbedding(nn.Module):
    """Convolutions that bring a picture to the latents' size, halving it between the widths."""

    def __init__(self, channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], kernel_size=3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(channels):
            self.blocks.append(nn.Conv2d(narrow, narrow, kernel_size=3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, kernel_size=3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        """picture (1, 3, f H, f W), 0 black to 1 white; returns (1, C, H, W)."""
        x = F.silu(self.conv_in(picture))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class ControlNet(ContractingPath):
    """Weight names are diffusers' `ControlNetModel`."""

    def __init__(self, layout: ControlNetLayout) -> None:
        super().__init__(layout.unet)
        self.controlnet_cond_embedding = ConditioningEmbedding(layout.embedding_channels, layout.unet.down[0].channels)
        *skips, (middle, _) = layout.unet.residuals()
        self.controlnet_down_blocks = nn.ModuleList([pointwise(channels, channels) for channels, _ in skips])
        self.controlnet_mid_block = pointwise(middle, middle)

    def forward(
        self, latents: Tensor, time_embedding: Tensor, encoder_hidden_states: Tensor, picture: Tensor
    ) -> tuple[Tensor, ...]:
        """What is added, in the order of `UNetLayout.residuals`.

        latents, time_embedding, encoder_hidden_states: as the UNet takes them; picture (1, 3, f H, f W) in 0 to 1.
        """
        time = F.silu(self.time_embedding(time_embedding, None))
        x = self.conv_in(latents) + self.controlnet_cond_embedding(picture)
        x, skips = self.contract(x, time, encoder_hidden_states, None)
        added = [block(skip) for block, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return (*added, self.controlnet_mid_block(x))
