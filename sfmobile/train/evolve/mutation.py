"""Actions on a block layout: remove or copy a cross-attention block or a pair of ResNets, weights carried along.

A ResNet of a down stage leaves a skip connection that a ResNet of its up partner takes, so those two go and come
together. Only blocks whose neighbours still fit without them can be removed: those with equal widths in and out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from sfmobile.errors import UsageError
from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.nets.unet import UNet

Kind = Literal["remove", "copy"]


@dataclass(frozen=True)
class Action:
    """Remove or copy `blocks` (state-dict names; one attention block, or the two ResNets of a level)."""

    kind: Kind
    blocks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {' + '.join(self.blocks)}"


def stages(layout: UNetLayout) -> dict[str, Stage]:
    """Every stage by the prefix of its blocks' names."""
    down = {f"down_blocks.{level}": stage for level, stage in enumerate(layout.down)}
    up = {f"up_blocks.{level}": stage for level, stage in enumerate(layout.up)}
    return {**down, "mid_block": layout.mid, **up}


def with_stages(layout: UNetLayout, changed: Mapping[str, Stage], name: str | None = None) -> UNetLayout:
    """The layout with some stages replaced; `UsageError` names the stage that no longer closes its skips."""
    return replace(
        layout,
        name=layout.name if name is None else name,
        down=tuple(changed.get(f"down_blocks.{level}", stage) for level, stage in enumerate(layout.down)),
        mid=changed.get("mid_block", layout.mid),
        up=tuple(changed.get(f"up_blocks.{level}", stage) for level, stage in enumerate(layout.up)),
    )


def actions(layout: UNetLayout) -> tuple[Action, ...]:
    """Every action that leaves a valid layout, removals first."""
    removals: list[Action] = []
    copies: list[Action] = []
    for prefix, stage in stages(layout).items():
        for index in range(stage.attentions):
            block = f"{prefix}.attentions.{index}"
            removals.append(Action("remove", (block,)))
            copies.append(Action("copy", (block,)))
    for index in range(layout.mid.resnets):
        if layout.mid.resnets > 1:
            removals.append(Action("remove", (f"mid_block.resnets.{index}",)))
        copies.append(Action("copy", (f"mid_block.resnets.{index}",)))
    for level, stage in enumerate(layout.down):
        partner = f"up_blocks.{len(layout.down) - 1 - level}"
        # The first ResNet of a down stage changes the width; the first and last of an up stage meet other widths.
        for index in range(1, stage.resnets):
            pair = (f"down_blocks.{level}.resnets.{index}", f"{partner}.resnets.{stage.resnets - index}")
            removals.append(Action("remove", pair))
            copies.append(Action("copy", pair))
    return (*removals, *copies)


def apply(layout: UNetLayout, action: Action, name: str | None = None) -> UNetLayout:
    """The layout after `action`."""
    step = -1 if action.kind == "remove" else 1
    changed: dict[str, Stage] = {}
    known = stages(layout)
    for block in action.blocks:
        prefix, kind, index = _parts(block)
        stage = changed.get(prefix, known[prefix])
        count = getattr(stage, kind)
        if not 0 <= index < getattr(known[prefix], kind):
            raise UsageError(f"Layout '{layout.name}' has no block '{block}'; {prefix} has {count} {kind}.")
        changed[prefix] = replace(stage, **{kind: count + step})
    return with_stages(layout, changed, name)


def _parts(block: str) -> tuple[str, str, int]:
    prefix, kind, index = block.rsplit(".", 2)
    return prefix, kind, int(index)


def block_sources(layout: UNetLayout, action: Action) -> dict[str, tuple[str, bool]]:
    """For each block of the layout after `action`, the block before it and whether it is the copy."""
    sources: dict[str, tuple[str, bool]] = {}
    touched = {_parts(block)[:2]: _parts(block)[2] for block in action.blocks}
    for prefix, stage in stages(layout).items():
        for kind in ("resnets", "attentions"):
            old = [(f"{prefix}.{kind}.{index}", False) for index in range(getattr(stage, kind))]
            if (prefix, kind) in touched:
                index = touched[prefix, kind]
                if action.kind == "remove":
                    del old[index]
                else:
                    old.insert(index + 1, (old[index][0], True))
            sources |= {f"{prefix}.{kind}.{index}": source for index, source in enumerate(old)}
    return sources


def mutate(unet: UNet, action: Action, name: str | None = None) -> UNet:
    """The network after `action`. A copied block keeps its weights, but its last layer is halved in both copies.

    Two equal residual blocks in a row would add their residual about twice; halved, they start near where one was.
    The copy of a ResNet that takes a skip connection starts with a shortcut that passes its other input on.
    """
    target = UNet(apply(unet.layout, action, name))
    sources = block_sources(unet.layout, action)
    weights = unet.state_dict()
    doubled = set(action.blocks) if action.kind == "copy" else set()
    with torch.no_grad():
        for key, parameter in target.state_dict().items():
            block = next((b for b in sources if key.startswith(b + ".")), None)
            if block is None:
                parameter.copy_(weights[key])
                continue
            origin, added = sources[block]
            part = key.removeprefix(block)
            source = weights[origin + part]
            if source.shape != parameter.shape:
                raise UsageError(f"{action} leaves {key} without weights of its shape; that block can't go.")
            if added and part.startswith(".conv_shortcut."):
                pass_on(parameter)
                continue
            last = part.startswith((".conv2.", ".proj_out."))
            parameter.copy_(source / 2 if origin in doubled and last else source)
    return target.to(next(unet.parameters()).device)


def pass_on(shortcut: torch.Tensor) -> None:
    """Make a shortcut's weight (C, C + skip, 1, 1) or bias (C,) pass its first C channels on as they are."""
    shortcut.zero_()
    if shortcut.ndim > 1:
        shortcut[:, : shortcut.shape[0], 0, 0].fill_diagonal_(1.0)
