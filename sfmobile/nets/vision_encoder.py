"""CLIP's vision transformer in the Neural Engine's layout: what a safety checker sees of a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfmobile.nets.attention import pointwise
from sfmobile.nets.layout import VisionEncoderLayout
from sfmobile.nets.norm import ChannelLayerNorm
from sfmobile.nets.text_encoder import TextLayer


class VisionEncoder(nn.Module):
    """A picture's embedding: the first position behind the last layer, normed and projected (arXiv 2103.00020).

    Norms, layers and the projection are named as in transformers, `pre_layrnorm` as it is misspelt there.
    """

    def __init__(self, layout: VisionEncoderLayout) -> None:
        super().__init__()
        self.layout = layout
        # As wide as what it stands in front of, so that no exporter reshapes it.
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, layout.hidden))
        self.patch_embedding = nn.Conv2d(
            3, layout.hidden, kernel_size=layout.patch_size, stride=layout.patch_size, bias=False
        )
        self.position_embedding = nn.Parameter(torch.zeros(layout.positions, layout.hidden))
        self.pre_layrnorm = ChannelLayerNorm(layout.hidden, layout.norm_eps)
        self.layers = nn.ModuleList([TextLayer(layout) for _ in range(layout.layers)])
        self.post_layernorm = ChannelLayerNorm(layout.hidden, layout.norm_eps)
        self.visual_projection = pointwise(layout.hidden, layout.projection, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (1, 3, image_size, image_size), normalised; returns (1, projection)."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding, patches], dim=1) + self.position_embedding
        x = self.pre_layrnorm(tokens.transpose(1, 2).unsqueeze(2))
        for layer in self.layers:
            x = layer(x)
        return self.visual_projection(self.post_layernorm(x[..., :1])).flatten(1)
