"""A deeper network that starts out computing what a shallower one computes: where an evolution begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfmobile.errors import UsageError
from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.nets.unet import UNet
from sfmobile.train.evolve.mutation import pass_on, stages, with_stages

_LAST = (".conv2.", ".proj_out.")


@dataclass(frozen=True)
class BlockCounts:
    """(ResNets, attention blocks) per stage, as in SnapFusion's Table 3; the mid stage has one entry."""

    down: tuple[tuple[int, int], ...]
    mid: tuple[int, int]
    up: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Origin:
    """The block that a block's weights come from, if there is one, and whether it is `added` beside that one."""

    block: str | None
    added: bool


def with_counts(layout: UNetLayout, counts: BlockCounts, name: str) -> UNetLayout:
    """The layout with other numbers of blocks. `UsageError` names the stage that breaks a skip connection."""
    for side, given, own in (("down", counts.down, layout.down), ("up", counts.up, layout.up)):
        if len(given) != len(own):
            raise UsageError(f"Supernet: expected counts of {len(own)} {side} stages, found {len(given)}.")
    changed = {"mid_block": Stage(layout.mid.channels, *counts.mid)}
    for side, given, own in (("down", counts.down, layout.down), ("up", counts.up, layout.up)):
        for level, (stage, pair) in enumerate(zip(own, given, strict=True)):
            changed[f"{side}_blocks.{level}"] = Stage(stage.channels, *pair)
    return with_stages(layout, changed, name)


def expand(unet: UNet, layout: UNetLayout) -> UNet:
    """`unet`'s weights in a deeper layout of the same widths.

    A new block is a copy of the last one of its kind in its stage, residuals shared out among the copies, so that it
    is of use at once; where shapes differ (a ResNet behind one that changes the width) it starts as the identity. New
    ResNets of an up stage come before its last one, as their skip connections ask for.

    Raises `UsageError` naming the stage that has fewer blocks than before.
    """
    target = UNet(layout)
    source = unet.state_dict()
    origins = _origins(unet.layout, layout)
    with torch.no_grad():
        state = target.state_dict()
        copies = _copies(origins, state, source)
        for key, parameter in state.items():
            block = next((b for b in origins if key.startswith(b + ".")), None)
            part = key if block is None else key.removeprefix(block)
            if block is None:
                parameter.copy_(source[key])
                continue
            if origins[block].added and part.startswith(".conv_shortcut."):
                pass_on(parameter)
            elif block in copies:
                weight = source[copies[block] + part]
                shares = list(copies.values()).count(copies[block])
                parameter.copy_(weight / shares if part.startswith(_LAST) else weight)
            elif part.startswith(_LAST):
                parameter.zero_()
    return target.to(next(unet.parameters()).device)


def _origins(old: UNetLayout, new: UNetLayout) -> dict[str, Origin]:
    """For each block of `new` the block of `old` that it comes from."""
    origins: dict[str, Origin] = {}
    before = stages(old)
    for prefix, stage in stages(new).items():
        for kind in ("resnets", "attentions"):
            had, has = getattr(before[prefix], kind), getattr(stage, kind)
            if has < had:
                raise UsageError(f"Supernet: {prefix} has {has} {kind}, fewer than the {had} of '{old.name}'.")
            # The last ResNet of an up stage stays last.
            tail = 1 if kind == "resnets" and prefix.startswith("up_blocks") else 0
            for index in range(has):
                block = f"{prefix}.{kind}.{index}"
                if index < had - tail:
                    origins[block] = Origin(f"{prefix}.{kind}.{index}", added=False)
                elif index >= has - tail:
                    origins[block] = Origin(f"{prefix}.{kind}.{had - 1}", added=False)
                else:
                    origins[block] = Origin(f"{prefix}.{kind}.{had - 1}" if had else None, added=True)
    return origins


def _copies(origins: dict[str, Origin], target: dict[str, Tensor], source: dict[str, Tensor]) -> dict[str, str]:
    """Blocks whose weights all fit those of their origin, with that origin."""
    fitting: dict[str, str] = {}
    for block, came in origins.items():
        if came.block is None:
            continue
        parts = [key.removeprefix(block) for key in target if key.startswith(block + ".")]
        if all(
            came.block + part in source and source[came.block + part].shape == target[block + part].shape
            for part in parts
        ):
            fitting[block] = came.block
        elif not came.added:
            raise UsageError(f"Supernet: '{block}' has other widths than before; only numbers of blocks may differ.")
    return fitting
