"""The blocks of a UNet layout as keys: what has to be known of a block to export and time it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sfmobile.bundle.choices import AttentionForm, Target
from sfmobile.files import StrictModel, sha256_of_value

if TYPE_CHECKING:
    from sfmobile.nets.layout import UNetLayout

TEXT_LENGTH = 77
# Raised when the same key gives another package than before.
KEY_REVISION = 1

Kind = Literal["resnet", "attention", "downsample", "upsample", "conv_in", "conv_out", "time_embedding", "empty"]


class BlockOptions(StrictModel):
    """How blocks are exported: the latents' size and batch, and what else a whole UNet is exported with."""

    height: int = 64
    width: int = 64
    batch: Literal[1, 2] = 2
    attention: AttentionForm = "split-einsum"
    bits: int | None = None
    target: Target = "ios17"


class BlockKey(StrictModel):
    """One kind of block at one width and resolution. Zero stands for what a kind doesn't have.

    height, width: of the block's input. context: channels of the text embedding, or of what is added to the time's;
    time: of the time embedding. depth: transformer layers of an attention block.
    """

    kind: Kind
    in_channels: int
    channels: int
    height: int
    width: int
    batch: int
    heads: int = 0
    context: int = 0
    time: int = 0
    groups: int = 0
    attention: AttentionForm = "original"
    bits: int | None = None
    target: Target = "ios17"
    depth: int = 1

    @property
    def sha256(self) -> str:
        """Content hash: of everything that decides what the package holds, coremltools' version included."""
        from importlib.metadata import version

        # One layer is what every block had before there were others: its hash stays.
        key = self.model_dump(exclude={"depth"} if self.depth == 1 else None)
        value: dict[str, Any] = {"revision": KEY_REVISION, "coremltools": version("coremltools"), **key}
        return sha256_of_value(value)

    def __str__(self) -> str:
        widths = f"{self.in_channels}" if self.in_channels == self.channels else f"{self.in_channels}->{self.channels}"
        bits = "fp16" if self.bits is None else f"{self.bits} bits"
        form = f", {self.attention}, {self.heads} heads" if self.kind == "attention" else ""
        form += f", {self.depth} layers" if self.depth != 1 else ""
        return f"{self.kind} {widths} at {self.height}x{self.width}, batch {self.batch}{form}, {bits}, {self.target}"


def layout_blocks(layout: UNetLayout, options: BlockOptions) -> list[tuple[str, BlockKey]]:
    """Every block of a UNet in running order, resampling and border convolutions included, by its name.

    Widths are read off the network itself, built without memory. Raises `UsageError` for a latent size that doesn't
    fit the layout.
    """
    import torch

    from sfmobile.nets.unet import UNet

    layout.check_latent_size(options.height, options.width)
    with torch.device("meta"):
        net = UNet(layout)
    width = layout.down[0].channels
    last = len(layout.down) - 1
    shared: dict[str, Any] = {"batch": options.batch, "bits": options.bits, "target": options.target}

    def sides(level: int) -> dict[str, Any]:
        return {"height": options.height >> level, "width": options.width >> level}

    blocks: list[tuple[str, BlockKey]] = [
        (
            "time_embedding",
            BlockKey(
                kind="time_embedding",
                in_channels=width,
                channels=4 * width,
                height=1,
                width=1,
                context=layout.added_embedding_dim or 0,
                **shared,
            ),
        ),
        ("conv_in", BlockKey(kind="conv_in", in_channels=layout.in_channels, channels=width, **sides(0), **shared)),
    ]
    stages: list[tuple[str, int, Any]] = [
        (f"down_blocks.{level}", level, block) for level, block in enumerate(net.down_blocks)
    ]
    stages += [("mid_block", last, net.mid_block)]
    stages += [(f"up_blocks.{index}", last - index, block) for index, block in enumerate(net.up_blocks)]
    for prefix, level, stage in stages:
        for kind, index in stage.stage.order():
            name = f"{prefix}.{kind}s.{index}"
            parts = _resnet(layout, net, name) if kind == "resnet" else _attention(layout, net, name, options, level)
            blocks.append((name, BlockKey(**parts, **sides(level), **shared)))
        for resampling, name in (("downsample", "downsamplers"), ("upsample", "upsamplers")):
            if hasattr(stage, name):
                channels = stage.stage.channels
                parts = {"kind": resampling, "in_channels": channels, "channels": channels}
                blocks.append((f"{prefix}.{name}.0", BlockKey(**parts, **sides(level), **shared)))
    out: dict[str, Any] = {"in_channels": width, "channels": layout.out_channels, "groups": layout.norm_groups}
    blocks.append(("conv_out", BlockKey(kind="conv_out", **out, **sides(0), **shared)))
    return blocks


def _resnet(layout: UNetLayout, net: Any, name: str) -> dict[str, Any]:
    conv = net.get_submodule(name).conv1
    return {
        "kind": "resnet",
        "in_channels": conv.in_channels,
        "channels": conv.out_channels,
        "time": 4 * layout.down[0].channels,
        "groups": layout.norm_groups,
    }


def _attention(layout: UNetLayout, net: Any, name: str, options: BlockOptions, level: int) -> dict[str, Any]:
    block = net.get_submodule(name)
    channels = block.proj_in.in_channels
    return {
        "kind": "attention",
        "in_channels": channels,
        "channels": channels,
        "heads": layout.heads_at(level),
        "context": layout.cross_attention_dim,
        "groups": layout.norm_groups,
        "attention": options.attention,
        "depth": len(block.transformer_blocks),
    }
