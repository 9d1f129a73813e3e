"""A small dual encoder of pictures and captions, trained contrastively (Radford et al., arXiv 2103.00020).

It measures how well a generated picture agrees with its prompt. It learns from pictures that the generator never sees,
so that it can't reward what both have memorised, and its own retrieval on real held-out pairs is reported before any
figure of a generator.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.train.config import parse_config
from sfmobile.train.pretrained.efficientnet_lite import BLOCKS, Trunk
from sfmobile.train.state import load_tensors, save_tensors

PADDING_ID = 49407  # CLIP's end-of-text, which also pads


@dataclass(frozen=True)
class DualEncoderLayout:
    """Widths of both towers.

    vocabulary: how many tokens have a row of the embedding; image_size: side that pictures are resized to;
    trunk_blocks: how many of EfficientNet-Lite0's blocks the image tower has; text_length: tokens that are read, the
    start included; longer captions are cut.
    """

    vocabulary: int
    image_size: int = 128
    trunk_blocks: int = BLOCKS
    text_width: int = 192
    text_layers: int = 2
    text_heads: int = 6
    text_length: int = 32
    embedding: int = 192


class ImageTower(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> (B, embedding): EfficientNet-Lite0's trunk and a head of our own."""

    def __init__(self, layout: DualEncoderLayout) -> None:
        super().__init__()
        self.size = layout.image_size
        self.trunk = Trunk(layout.trunk_blocks)
        # Pooling forgets where a feature was; "left of" needs it, so places are written into the map first.
        side = -(-layout.image_size // self.trunk.stride)
        self.place = nn.Parameter(torch.randn(1, layout.embedding, side, side) * 0.02)
        self.widen = nn.Conv2d(self.trunk.channels, layout.embedding, 1)
        self.mix = nn.Sequential(
            nn.Conv2d(layout.embedding, layout.embedding, 3, padding=1, groups=layout.embedding),
            nn.GroupNorm(1, layout.embedding),
            nn.Conv2d(layout.embedding, 2 * layout.embedding, 1),
            nn.GELU(),
            nn.Conv2d(2 * layout.embedding, layout.embedding, 1),
        )
        self.norm = nn.LayerNorm(layout.embedding)
        self.project = nn.Linear(layout.embedding, layout.embedding, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Any picture size; resized to the tower's own."""
        if images.shape[-2:] != (self.size, self.size):
            images = functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        x = self.widen(self.trunk(images)) + self.place
        x = x + self.mix(x)
        return self.project(self.norm(x.mean(dim=(2, 3))))


class TextTower(nn.Module):
    """Token ids (B, S) of the CLIP tokenizer -> (B, embedding).

    Only tokens that captions use have a row: all 49,408 would weigh more than the rest of the model ten times over.
    `vocabulary` holds their ids in order; any other token has row 0.
    """

    vocabulary: Tensor

    def __init__(self, layout: DualEncoderLayout) -> None:
        super().__init__()
        width = layout.text_width
        self.register_buffer("vocabulary", torch.arange(layout.vocabulary, dtype=torch.int32))
        self.token_embedding = nn.Embedding(layout.vocabulary + 1, width)
        self.position_embedding = nn.Embedding(layout.text_length, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, layout.text_heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layout.text_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, layout.embedding, bias=False)

    def rows(self, input_ids: Tensor) -> Tensor:
        """Embedding row of each token id; 0 for ids outside the vocabulary."""
        ids = input_ids.to(self.vocabulary.dtype)
        place = torch.searchsorted(self.vocabulary, ids.contiguous()).clamp_max(len(self.vocabulary) - 1)
        return torch.where(self.vocabulary[place] == ids, place + 1, 0)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens behind the first end-of-text are padding and not looked at."""
        input_ids = input_ids[:, : self.position_embedding.num_embeddings]
        ends = input_ids == PADDING_ID
        kept = ~(ends & (ends.cumsum(dim=1) > 1))  # up to and with the first end-of-text
        x = self.token_embedding(self.rows(input_ids)) + self.position_embedding.weight[: input_ids.shape[1]]
        x = self.layers(x, src_key_padding_mask=~kept)
        weight = kept.unsqueeze(-1).to(x.dtype)
        return self.project(self.norm((x * weight).sum(dim=1) / weight.sum(dim=1)))


class DualEncoder(nn.Module):
    """Both towers and the temperature of the contrastive loss."""

    def __init__(self, layout: DualEncoderLayout) -> None:
        super().__init__()
        self.layout = layout
        self.image = ImageTower(layout)
        self.text = TextTower(layout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> unit vectors (B, embedding) float32."""
        return functional.normalize(self.image(images).float(), dim=1)

    def encode_texts(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, S) -> unit vectors (B, embedding) float32."""
        return functional.normalize(self.text(input_ids).float(), dim=1)

    def save(self, path: Path) -> None:
        """Write weights in fp16 with the layout in the file's metadata."""
        state = {
            name: value if name == "text.vocabulary" else value.to(torch.float16)
            for name, value in self.state_dict().items()
        }
        save_tensors(path, state, {"layout": json.dumps(dataclasses.asdict(self.layout))})

    @classmethod
    def load(cls, path: Path) -> DualEncoder:
        """Read what `save` wrote, for measuring: float32, frozen. Raises ArtifactError."""
        tensors, metadata = load_tensors(path)
        try:
            raw = json.loads(metadata["layout"])
            layout = parse_config(DualEncoderLayout, raw, str(path))
            encoder = cls(layout)
            encoder.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError, UsageError) as error:
            raise ArtifactError(
                f"{path}: expected a dual encoder, found: {str(error).splitlines()[0]}; "
                "train it again with `sfmobile train dual-encoder`."
            ) from error
        return encoder.requires_grad_(False).eval()
