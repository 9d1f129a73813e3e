"""Start an efficient UNet from its teacher's blocks, as SnapFusion starts from SD-1.5's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.nets.unet import UNet


@dataclass(frozen=True)
class Origin:
    """Where a block's weights come from. An `added` block is a copy of its neighbour (SnapFusion's "add" action)."""

    block: str
    added: bool = False


def block_origins(source: UNetLayout, target: UNetLayout) -> dict[str, Origin]:
    """For each block of `target`, the block of `source` that ran at the same place.

    Levels are matched from the lowest resolution up, so that a UNet for larger latents, with a level more on top,
    starts from one for smaller latents. Down and mid stages are matched from their first ResNet, up stages from their
    last, since that is where their skip connections agree. Attention blocks go with the ResNet they run behind.
    """
    origins: dict[str, Origin] = {}
    more = len(target.down) - len(source.down)
    for level, stage in enumerate(target.down):
        if 0 <= level - more < len(source.down):
            here, there = f"down_blocks.{level}", f"down_blocks.{level - more}"
            origins |= _stage_origins(there, source.down[level - more], here, stage, from_end=False)
    origins |= _stage_origins("mid_block", source.mid, "mid_block", target.mid, from_end=False)
    for level in range(min(len(source.up), len(target.up))):
        base = f"up_blocks.{level}"
        origins |= _stage_origins(base, source.up[level], base, target.up[level], from_end=True)
    return origins


def _sampler_origins(source: UNetLayout, target: UNetLayout) -> dict[str, Origin]:
    """The same for the convolutions between levels, which go with the level that they leave."""
    more = len(target.down) - len(source.down)
    origins = {
        f"down_blocks.{level}.downsamplers": Origin(f"down_blocks.{level - more}.downsamplers")
        for level in range(max(more, 0), len(target.down))
    }
    return origins | {
        f"up_blocks.{level}.upsamplers": Origin(f"up_blocks.{level}.upsamplers") for level in range(len(target.up))
    }


def _attentions_by_resnet(stage: Stage) -> dict[int, list[int]]:
    """Attention blocks by the ResNet they run behind."""
    members: dict[int, list[int]] = {}
    resnet = 0
    for kind, index in stage.order():
        if kind == "resnet":
            resnet = index
        else:
            members.setdefault(resnet, []).append(index)
    return members


def _stage_origins(
    source_base: str, source: Stage, target_base: str, target: Stage, from_end: bool
) -> dict[str, Origin]:
    shift = source.resnets - target.resnets if from_end else 0
    origins: dict[str, Origin] = {}
    for resnet in range(target.resnets):
        if 0 <= resnet + shift < source.resnets:
            origins[f"{target_base}.resnets.{resnet}"] = Origin(f"{source_base}.resnets.{resnet + shift}")
    available = _attentions_by_resnet(source)
    for resnet, members in _attentions_by_resnet(target).items():
        own = available.get(resnet + shift, [])
        for position, attention in enumerate(members):
            if position < len(own):
                origins[f"{target_base}.attentions.{attention}"] = Origin(f"{source_base}.attentions.{own[position]}")
            elif source.attentions:
                neighbour = own[-1] if own else source.attentions - 1
                origin = Origin(f"{source_base}.attentions.{neighbour}", added=True)
                origins[f"{target_base}.attentions.{attention}"] = origin
    return origins


def inherit_weights(source: UNet, target: UNet) -> tuple[str, ...]:
    """Copy what fits from `source` into `target`; returns the names of parameters that keep their own start.

    The output projection of an added block starts at zero, so that the block changes nothing until it is trained.
    """
    origins = block_origins(source.layout, target.layout) | _sampler_origins(source.layout, target.layout)
    weights = source.state_dict()
    left: list[str] = []
    with torch.no_grad():
        for name, parameter in target.state_dict().items():
            block = next((b for b in origins if name.startswith(b + ".")), None)
            if block is None:
                # A level's block without an origin keeps its own start; what is outside the levels goes by name.
                origin = None if name.startswith(("down_blocks.", "up_blocks.", "mid_block.")) else name
            else:
                origin = origins[block].block + name.removeprefix(block)
            if origin is None or origin not in weights or weights[origin].shape != parameter.shape:
                left.append(name)
                continue
            parameter.copy_(weights[origin])
            if block is not None and origins[block].added and ".proj_out." in name:
                parameter.zero_()
    return tuple(left)
