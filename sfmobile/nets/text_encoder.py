"""The CLIP text transformer in the Neural Engine's layout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.attention import MASKED, Attention, pointwise
from sfmobile.nets.layout import TextEncoderLayout, VisionEncoderLayout
from sfmobile.nets.norm import ChannelLayerNorm


class TextLayer(nn.Module):
    """Self-attention and a perceptron, each behind a LayerNorm and around a residual; CLIP's pictures have the same."""

    def __init__(self, layout: TextEncoderLayout | VisionEncoderLayout) -> None:
        super().__init__()
        self.activation = layout.activation
        self.layer_norm1 = ChannelLayerNorm(layout.hidden, layout.norm_eps)
        self.self_attn = Attention(layout.hidden, layout.heads, qkv_bias=True)
        self.layer_norm2 = ChannelLayerNorm(layout.hidden, layout.norm_eps)
        self.fc1 = pointwise(layout.hidden, layout.intermediate)
        self.fc2 = pointwise(layout.intermediate, layout.hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, 1, S), mask (S, S) of a text."""
        x = x + self.self_attn(self.layer_norm1(x), mask=mask)
        hidden = self.fc1(self.layer_norm2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.activation == "quick_gelu" else F.gelu(hidden)
        return x + self.fc2(hidden)


class TextEncoder(nn.Module):
    """CLIP text encoder: the hidden states that a UNet reads, and the pooled one where the layout has it.

    Stable Diffusion reads the last states behind the final LayerNorm; XL those before the last layer, without it.
    """

    causal_mask: Tensor

    def __init__(self, layout: TextEncoderLayout) -> None:
        super().__init__()
        self.layout = layout
        self.token_embedding = _embedding(layout.vocabulary, layout.hidden)
        self.position_embedding = _embedding(layout.max_length, layout.hidden)
        self.layers = nn.ModuleList([TextLayer(layout) for _ in range(layout.layers)])
        if layout.final_norm or layout.projection is not None:
            self.final_layer_norm = ChannelLayerNorm(layout.hidden, layout.norm_eps)
        if layout.projection is not None:
            self.text_projection = pointwise(layout.hidden, layout.projection, bias=False)
        self.register_buffer("causal_mask", causal_mask(layout.max_length), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """input_ids (B, max_length) integers; returns hidden states (B, hidden, 1, max_length), and with a projection
        the pooled state (B, projection, 1, 1) beside them."""
        layout = self.layout
        tokens = self.token_embedding(input_ids) + self.position_embedding.weight
        x = tokens.transpose(1, 2).unsqueeze(2)
        mask = self.causal_mask
        if mask.dtype != x.dtype:
            mask = mask.to(x.dtype)
        last = len(self.layers) if layout.state_layers is None else layout.state_layers
        states = x
        for count, layer in enumerate(self.layers, start=1):
            x = layer(x, mask)
            if count == last:
                states = x
        if layout.projection is None:
            return self.final_layer_norm(states) if layout.final_norm else states
        normed = self.final_layer_norm(x)
        if layout.final_norm:
            states = normed if last == len(self.layers) else self.final_layer_norm(states)
        pooled = (normed * self._end_of_text(input_ids).to(x.dtype)).sum(dim=3, keepdim=True)
        return states, self.text_projection(pooled)

    def _end_of_text(self, input_ids: Tensor) -> Tensor:
        """(B, 1, 1, max_length): whether a place is the one whose state is pooled, exactly one of them."""
        found = input_ids if self.layout.end_token is None else (input_ids == self.layout.end_token).to(torch.int32)
        places = torch.arange(self.layout.max_length, device=input_ids.device)
        return (places == found.argmax(dim=1, keepdim=True))[:, None, None, :]


def _embedding(count: int, width: int) -> nn.Embedding:
    """A table to look rows up in. On the meta device torch 2.13 loads its compiler, for seconds, to draw nothing."""
    if torch.get_default_device().type == "meta":
        # torch declares no types for it.
        return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)  # type: ignore[no-untyped-call]
    return nn.Embedding(count, width)


def causal_mask(length: int) -> Tensor:
    """(length, length) fp32: 0 where query i may look at key j <= i, a large finite negative elsewhere."""
    # On the CPU whatever the device is: on the meta device torch 2.13 loads its compiler for `triu`.
    return torch.from_numpy(np.triu(np.full((length, length), MASKED, np.float32), 1))
