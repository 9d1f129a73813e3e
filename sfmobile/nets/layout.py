"""Networks as data: block layouts of the UNet, the text encoder and the autoencoder.

A UNet is a list of stages; SD-1.5 and SnapFusion are two values of one type. Block counts of SnapFusion
are Table 3 of arXiv 2306.00980; its paper says 848 M parameters, its own table gives 759.33 M with the
only split of "Mid 4" that keeps one ResNet on each side of the bottleneck (Down-4 / mid / Up-0 = 1/1/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from sfmobile.errors import UsageError

BlockKind = Literal["resnet", "attention"]


@dataclass(frozen=True)
class Stage:
    """One resolution on one side of the UNet: its width and how many blocks of each kind it runs.

    depths: transformer layers of each attention block; none given, one each.
    """

    channels: int
    resnets: int
    attentions: int
    depths: tuple[int, ...] = ()

    def depth(self, attention: int) -> int:
        """Transformer layers of that attention block."""
        return self.depths[attention] if self.depths else 1

    def order(self) -> tuple[tuple[BlockKind, int], ...]:
        """Blocks in running order."""
        return block_order(self.resnets, self.attentions)


def block_order(resnets: int, attentions: int) -> tuple[tuple[BlockKind, int], ...]:
    """Running order of a stage: one attention block behind each ResNet, spread evenly where there are more of them.

    Stable Diffusion's mid stage (2 ResNets, 1 attention) comes out as ResNet, attention, ResNet.
    """
    slots: list[list[int]] = [[] for _ in range(max(resnets, 1))]
    for attention in range(attentions):
        slot = attention * len(slots) // attentions if attentions > len(slots) else attention
        slots[slot].append(attention)
    order: list[tuple[BlockKind, int]] = []
    for slot, members in enumerate(slots):
        if slot < resnets:
            order.append(("resnet", slot))
        order.extend(("attention", member) for member in members)
    return tuple(order)


@dataclass(frozen=True)
class UNetLayout:
    """Block layout of a conditional UNet over latents (B, in_channels, H, W).

    down: stages from the highest resolution to the lowest; all but the last end in a stride-2 convolution.
    mid: blocks at the lowest resolution (channels equal the last down stage's).
    up: stages from the lowest resolution to the highest; all but the last end in a 2x upsampling.
    Each up ResNet consumes one skip connection, so up stage i needs one ResNet more than its down partner.
    takes_residuals: whether what ControlNets add to the skip connections and the middle are inputs of it.
    added_embedding_dim: values of a further embedding that is added to the time's (Stable Diffusion XL: the pooled text
    and the sinusoids of six sizes, arXiv 2307.01952, section 2.2).
    """

    name: str
    down: tuple[Stage, ...]
    mid: Stage
    up: tuple[Stage, ...]
    cross_attention_dim: int
    heads: int | tuple[int, ...] = 8
    in_channels: int = 4
    out_channels: int = 4
    norm_groups: int = 32
    guidance_embedding_dim: int | None = None
    takes_residuals: bool = False
    added_embedding_dim: int | None = None

    def __post_init__(self) -> None:
        if len(self.down) != len(self.up):
            raise UsageError(
                f"UNet layout '{self.name}': expected as many up stages as down stages, found {len(self.up)} "
                f"and {len(self.down)}; give every down stage its up partner."
            )
        if self.mid.channels != self.down[-1].channels:
            raise UsageError(
                f"UNet layout '{self.name}': expected the mid stage to have the {self.down[-1].channels} channels of "
                f"the last down stage, found {self.mid.channels}."
            )
        if isinstance(self.heads, tuple) and len(self.heads) != len(self.down):
            raise UsageError(
                f"UNet layout '{self.name}': expected one head count per down stage ({len(self.down)}), "
                f"found {len(self.heads)}."
            )
        for level, stage in enumerate(self.down[1:], start=1):
            if stage.resnets == 0 and stage.channels != self.down[level - 1].channels:
                raise UsageError(
                    f"UNet layout '{self.name}': down stage {level} has no ResNet to change the width from "
                    f"{self.down[level - 1].channels} to {stage.channels}; give it one."
                )
        for level, stage in enumerate(self.up):
            partner = self.down[-1 - level]
            if stage.channels != partner.channels or stage.resnets != partner.resnets + 1:
                raise UsageError(
                    f"UNet layout '{self.name}': up stage {level} doesn't close its skip connections: expected "
                    f"{partner.resnets + 1} ResNets of {partner.channels} channels (one more than its down partner), "
                    f"found {stage.resnets} of {stage.channels}."
                )
        for stage in (*self.down, self.mid, *self.up):
            if stage.depths and len(stage.depths) != stage.attentions:
                raise UsageError(
                    f"UNet layout '{self.name}': a stage of {stage.attentions} attention blocks has "
                    f"{len(stage.depths)} numbers of transformer layers; give one for each block."
                )
            if stage.channels % self.norm_groups:
                raise UsageError(
                    f"UNet layout '{self.name}': {stage.channels} channels can't be split into {self.norm_groups} "
                    "normalisation groups; use a multiple."
                )

    @property
    def downsampling(self) -> int:
        """Latent height and width must be multiples of this."""
        return int(2 ** (len(self.down) - 1))

    def heads_at(self, level: int) -> int:
        """Attention heads at down level `level` (0 = highest resolution)."""
        return self.heads[level] if isinstance(self.heads, tuple) else self.heads

    def check_latent_size(self, height: int, width: int) -> None:
        """Raise `UsageError` unless (height, width) can be halved as often as the layout does."""
        factor = self.downsampling
        if height < factor or width < factor or height % factor or width % factor:
            raise UsageError(
                f"Latent size {height}x{width} doesn't fit UNet layout '{self.name}': both sides must be multiples of "
                f"{factor} because it halves them {len(self.down) - 1} times; the nearest that fits is "
                f"{max(factor, round(height / factor) * factor)}x{max(factor, round(width / factor) * factor)}."
            )

    def residuals(self) -> tuple[tuple[int, int], ...]:
        """Channels and level (0 = highest resolution) of each skip connection in the order they are made, and of the
        middle behind them: where a ControlNet adds (arXiv 2302.05543). 12 and 1 for Stable Diffusion."""
        found = [(self.down[0].channels, 0)]
        for level, stage in enumerate(self.down):
            found += [(stage.channels, level)] * stage.resnets
            if level < len(self.down) - 1:
                found.append((stage.channels, level + 1))
        return (*found, (self.mid.channels, len(self.down) - 1))

    def block_names(self) -> tuple[str, ...]:
        """Every removable block in running order, named as in the state dict (`down_blocks.0.resnets.1`, ...)."""
        names: list[str] = []
        for prefix, stages in (("down_blocks", self.down), ("mid_block", (self.mid,)), ("up_blocks", self.up)):
            for level, stage in enumerate(stages):
                base = prefix if prefix == "mid_block" else f"{prefix}.{level}"
                names.extend(f"{base}.{kind}s.{index}" for kind, index in stage.order())
        return tuple(names)


@dataclass(frozen=True)
class ControlNetLayout:
    """A ControlNet (arXiv 2302.05543): the way down and the middle of a UNet, and a picture's way to its latents' size.

    unet: the UNet that it copies; its way up is of no use. embedding_channels: of the convolutions that shrink the
    picture, halving it behind each but the last.
    """

    name: str
    unet: UNetLayout
    embedding_channels: tuple[int, ...] = (16, 32, 96, 256)

    @property
    def downsampling(self) -> int:
        """Pixels of the picture per latent pixel, each side."""
        return int(2 ** (len(self.embedding_channels) - 1))


@dataclass(frozen=True)
class TextEncoderLayout:
    """CLIP text transformer: token ids (B, max_length) to hidden states (B, hidden, 1, max_length).

    max_length: the tokens that it is given; the checkpoint may hold positions for more. layers: those that run.
    state_layers: those whose states are given, all that run without it. final_norm: whether they are normalised; what
    is pooled is in any case. projection: channels of the pooled output, None for none. end_token: the id whose first
    place is pooled; None for the place of the largest id, where configs of before transformers 4.31 find the end.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    vocabulary: int = 49408
    max_length: int = 77
    norm_eps: float = 1e-5
    state_layers: int | None = None
    final_norm: bool = True
    projection: int | None = None
    end_token: int | None = None


@dataclass(frozen=True)
class VisionEncoderLayout:
    """CLIP vision transformer with its projection: a normalised picture (B, 3, image_size, image_size) to an embedding
    (B, projection)."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    image_size: int
    patch_size: int
    projection: int
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    norm_eps: float = 1e-5

    @property
    def positions(self) -> int:
        """One for each patch, and one in front that gathers them."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class AutoencoderLayout:
    """KL autoencoder: images (B, 3, H, W) in [-1, 1] to latents (B, latent_channels, H/f, W/f), f = `downsampling`.

    The encoder may be narrower than the decoder and the reverse: SnapFusion halves the decoder alone.
    activation_scale: what is between two norms is so many times what the stored weights alone would make of it, a power
    of two, for float16's range; images and latents are the same (see `nets.autoencoder.weight_scale`).
    """

    name: str
    decoder_channels: tuple[int, ...]
    encoder_channels: tuple[int, ...]
    latent_channels: int = 4
    layers_per_block: int = 2
    norm_groups: int = 32
    scaling_factor: float = 0.18215
    activation_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.activation_scale <= 0 or math.frexp(self.activation_scale)[0] != 0.5:
            raise UsageError(
                f"Autoencoder layout '{self.name}': an activation scale of {self.activation_scale} isn't exact in "
                "floating point; use a power of two."
            )

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, each side."""
        return int(2 ** (len(self.decoder_channels) - 1))

    def halved_decoder(self) -> AutoencoderLayout:
        """The same autoencoder with half the decoder's channels (SnapFusion's efficient decoder)."""
        channels = tuple(width // 2 for width in self.decoder_channels)
        return replace(self, name=f"{self.name}-half", decoder_channels=channels)


@dataclass(frozen=True)
class TinyAutoencoderLayout:
    """A tiny autoencoder's decoder (TAESD): blocks per resolution, from the lowest to the highest, all of one width."""

    name: str
    decoder_blocks: tuple[int, ...]
    decoder_width: int = 64
    latent_channels: int = 4
    scaling_factor: float = 1.0

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, each side."""
        return int(2 ** (len(self.decoder_blocks) - 1))


def _unet(
    name: str,
    channels: tuple[int, ...],
    down: tuple[tuple[int, int], ...],
    mid: tuple[int, int],
    up: tuple[tuple[int, int], ...],
    cross_attention_dim: int,
    heads: int | tuple[int, ...],
    norm_groups: int = 32,
) -> UNetLayout:
    """Layout from (resnets, attentions) pairs per stage."""
    return UNetLayout(
        name=name,
        down=tuple(Stage(width, *blocks) for width, blocks in zip(channels, down, strict=True)),
        mid=Stage(channels[-1], *mid),
        up=tuple(Stage(width, *blocks) for width, blocks in zip(reversed(channels), up, strict=True)),
        cross_attention_dim=cross_attention_dim,
        heads=heads,
        norm_groups=norm_groups,
    )


SD15_CHANNELS = (320, 640, 1280, 1280)
SD15_UNET = _unet(
    "sd15",
    SD15_CHANNELS,
    down=((2, 2), (2, 2), (2, 2), (2, 0)),
    mid=(2, 1),
    up=((3, 0), (3, 3), (3, 3), (3, 3)),
    cross_attention_dim=768,
    heads=8,
)
SNAPFUSION_UNET = _unet(
    "snapfusion",
    SD15_CHANNELS,
    down=((2, 0), (2, 2), (1, 2), (1, 0)),
    mid=(1, 1),
    up=((2, 0), (2, 6), (3, 3), (3, 0)),
    cross_attention_dim=768,
    heads=8,
)
SD15_TEXT_ENCODER = TextEncoderLayout(hidden=768, layers=12, heads=12, intermediate=3072)
SD15_AUTOENCODER = AutoencoderLayout(
    "sd15", decoder_channels=(128, 256, 512, 512), encoder_channels=(128, 256, 512, 512)
)
SNAPFUSION_AUTOENCODER = AutoencoderLayout(
    "snapfusion", decoder_channels=(64, 128, 256, 256), encoder_channels=(128, 256, 512, 512)
)

# Stable Diffusion XL (arXiv 2307.01952, table 1): three resolutions, no attention at the highest, and 2 and 10
# transformer layers in each attention block below. SSD-1B and Segmind-Vega (arXiv 2401.02677) take layers out of it,
# and all attention of the middle; as published they have 1.33 and 0.745 billion parameters.
SDXL_CHANNELS = (320, 640, 1280)
SDXL_UNET = UNetLayout(
    "sdxl",
    down=(Stage(320, 2, 0), Stage(640, 2, 2, (2, 2)), Stage(1280, 2, 2, (10, 10))),
    mid=Stage(1280, 2, 1, (10,)),
    up=(Stage(1280, 3, 3, (10, 10, 10)), Stage(640, 3, 3, (2, 2, 2)), Stage(320, 3, 0)),
    cross_attention_dim=2048,
    heads=(5, 10, 20),
    added_embedding_dim=2816,
)
SSD1B_UNET = replace(
    SDXL_UNET,
    name="ssd-1b",
    down=(Stage(320, 2, 0), Stage(640, 2, 2, (2, 2)), Stage(1280, 2, 2, (4, 4))),
    mid=Stage(1280, 1, 0),
    up=(Stage(1280, 3, 3, (4, 4, 10)), Stage(640, 3, 3, (2, 1, 1)), Stage(320, 3, 0)),
)
VEGA_UNET = replace(
    SSD1B_UNET,
    name="segmind-vega",
    down=(Stage(320, 2, 0), Stage(640, 2, 2), Stage(1280, 2, 2, (2, 2))),
    up=(Stage(1280, 3, 3, (2, 2, 2)), Stage(640, 3, 3), Stage(320, 3, 0)),
)
# CLIP ViT-L's text encoder as Stable Diffusion XL reads it, without its last layer and norm, and OpenCLIP's ViT-bigG.
SDXL_TEXT_ENCODER = replace(SD15_TEXT_ENCODER, layers=11, final_norm=False)
SDXL_TEXT_ENCODER_2 = TextEncoderLayout(
    hidden=1280,
    layers=32,
    heads=20,
    intermediate=5120,
    activation="gelu",
    state_layers=31,
    final_norm=False,
    projection=1280,
)
SDXL_AUTOENCODER = replace(SD15_AUTOENCODER, name="sdxl", scaling_factor=0.13025)

# A larger model for 128 px, for a GPU to train: 16x16 latents, so three resolutions. The teacher has SD-1.5's shape
# scaled down; the student follows SnapFusion: no attention at the highest resolution, fewer ResNets at the lowest, more
# attention between. Widths are shared, so that the student starts from the teacher's blocks.
GLYPH_CHANNELS = (96, 160, 224)
GLYPH_TEACHER_UNET = _unet(
    "glyph-teacher",
    GLYPH_CHANNELS,
    down=((2, 2), (2, 2), (2, 0)),
    mid=(2, 1),
    up=((3, 0), (3, 3), (3, 3)),
    cross_attention_dim=192,
    heads=(3, 5, 7),
    norm_groups=16,
)
GLYPH_UNET = _unet(
    "glyph",
    GLYPH_CHANNELS,
    down=((2, 0), (2, 2), (1, 0)),
    mid=(1, 1),
    up=((2, 0), (3, 4), (3, 0)),
    cross_attention_dim=192,
    heads=(3, 5, 7),
    norm_groups=16,
)
GLYPH_TEXT_ENCODER = TextEncoderLayout(hidden=192, layers=4, heads=3, intermediate=768)
GLYPH_TEACHER_AUTOENCODER = AutoencoderLayout(
    "glyph-teacher",
    decoder_channels=(64, 128, 256, 256),
    encoder_channels=(32, 64, 128, 128),
    norm_groups=16,
    scaling_factor=1.0,
)
GLYPH_AUTOENCODER = AutoencoderLayout(
    "glyph",
    decoder_channels=(32, 64, 128, 128),
    encoder_channels=(32, 64, 128, 128),
    norm_groups=16,
    scaling_factor=1.0,
)

# What the built-in model grew from: 64 px, 8x8 latents, small enough to train on two CPU cores in an hour and a half.
GLYPH_64_UNET = _unet(
    "glyph-64",
    (96, 160),
    down=((1, 1), (1, 1)),
    mid=(1, 1),
    up=((2, 1), (2, 1)),
    cross_attention_dim=192,
    heads=(3, 5),
    norm_groups=16,
)
GLYPH_64_TEXT_ENCODER = TextEncoderLayout(hidden=192, layers=2, heads=3, intermediate=768)
GLYPH_64_AUTOENCODER = AutoencoderLayout(
    "glyph-64",
    decoder_channels=(32, 64, 96, 96),
    encoder_channels=(16, 32, 64, 64),
    layers_per_block=1,
    norm_groups=8,
    scaling_factor=1.0,
)

# SnapFusion's moves on it: no attention at the highest resolution, more ResNets and attention below on the way up.
GLYPH_64_EFFICIENT_UNET = _unet(
    "glyph-64-efficient",
    (96, 160),
    down=((1, 0), (1, 1)),
    mid=(1, 1),
    up=((2, 2), (2, 0)),
    cross_attention_dim=192,
    heads=(3, 5),
    norm_groups=16,
)
GLYPH_64_HALF_AUTOENCODER = GLYPH_64_AUTOENCODER.halved_decoder()

# The built-in model, grown to 128 px: a level on top for 16x16 latents, around the 64 px UNet. The efficient one
# has no attention there, and keeps all below it, where it is cheap.
GLYPH_128_UNET = _unet(
    "glyph-128",
    (96, 96, 160),
    down=((1, 1), (1, 1), (1, 1)),
    mid=(1, 1),
    up=((2, 1), (2, 1), (2, 1)),
    cross_attention_dim=192,
    heads=(3, 3, 5),
    norm_groups=16,
)
GLYPH_128_EFFICIENT_UNET = _unet(
    "glyph-128-efficient",
    (96, 96, 160),
    down=((1, 0), (1, 1), (1, 1)),
    mid=(1, 1),
    up=((2, 1), (2, 1), (2, 0)),
    cross_attention_dim=192,
    heads=(3, 3, 5),
    norm_groups=16,
)

UNET_LAYOUTS = {
    layout.name: layout
    for layout in (
        SD15_UNET,
        SNAPFUSION_UNET,
        SDXL_UNET,
        SSD1B_UNET,
        VEGA_UNET,
        GLYPH_TEACHER_UNET,
        GLYPH_UNET,
        GLYPH_64_UNET,
        GLYPH_64_EFFICIENT_UNET,
        GLYPH_128_UNET,
        GLYPH_128_EFFICIENT_UNET,
    )
}
AUTOENCODER_LAYOUTS = {
    layout.name: layout
    for layout in (
        SD15_AUTOENCODER,
        SNAPFUSION_AUTOENCODER,
        SDXL_AUTOENCODER,
        GLYPH_TEACHER_AUTOENCODER,
        GLYPH_AUTOENCODER,
        GLYPH_64_AUTOENCODER,
        GLYPH_64_HALF_AUTOENCODER,
    )
}
TEXT_ENCODER_LAYOUTS = {
    "sd15": SD15_TEXT_ENCODER,
    "glyph": GLYPH_TEXT_ENCODER,
    "glyph-64": GLYPH_64_TEXT_ENCODER,
}
