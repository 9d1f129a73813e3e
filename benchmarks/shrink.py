"""The other ways to a given latency, which evolving must beat at equal training."""

from __future__ import annotations

import math
import re

import torch

from sfmobile.errors import UsageError
from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.nets.unet import UNet
from sfmobile.train.evolve.evolution import Latency
from sfmobile.train.evolve.mutation import Action, actions, apply, stages

# Parameters that meet a state and its skip connection joined.
_TAKES_BOTH = re.compile(r"(up_blocks\.\d+\.resnets\.\d+)\.(?:norm1\.(?:weight|bias)|(?:conv1|conv_shortcut)\.weight)")


def random_removal(layout: UNetLayout, latency: Latency, target_ms: float, seed: int) -> list[Action]:
    """Removals drawn at random, one after another, until the layout meets the target."""
    generator = torch.Generator().manual_seed(seed)
    removed: list[Action] = []
    while latency(layout) > target_ms:
        removals = [action for action in actions(layout) if action.kind == "remove"]
        if not removals:
            raise UsageError(f"A target of {target_ms:.4g} ms can't be reached by removing blocks of '{layout.name}'.")
        removed.append(removals[int(torch.randint(len(removals), (), generator=generator))])
        layout = apply(layout, removed[-1])
    return removed


def removals_to(layout: UNetLayout, target: UNetLayout) -> list[Action]:
    """Removals that turn `layout` into one with the blocks of `target`, the last of each stage first.

    Raises `UsageError` naming a stage that removals don't bring there.
    """
    removed: list[Action] = []
    while True:
        wanted = stages(target)
        counts = {prefix: (stage.resnets, stage.attentions) for prefix, stage in stages(layout).items()}
        aims = {prefix: (stage.resnets, stage.attentions) for prefix, stage in wanted.items()}
        if counts == aims:
            return removed
        for action in reversed(actions(layout)):
            if action.kind == "remove":
                left = stages(apply(layout, action))
                if all(
                    left[prefix].resnets >= stage.resnets and left[prefix].attentions >= stage.attentions
                    for prefix, stage in wanted.items()
                ):
                    removed.append(action)
                    layout = apply(layout, action)
                    break
        else:
            stage = next(prefix for prefix in aims if counts.get(prefix) != aims[prefix])
            raise UsageError(f"Removals don't lead from '{layout.name}' to '{target.name}': {stage} stays different.")


def uniform_shrinking(layout: UNetLayout, latency: Latency, target_ms: float) -> UNetLayout:
    """The widest uniformly narrowed layout that meets the target, with attention heads of their old width.

    Widths are the nearest multiples of a head (and of the normalisation groups) to one share of the old widths.
    """
    head_widths = [stage.channels // layout.heads_at(level) for level, stage in enumerate(layout.down)]
    tried: set[tuple[int, ...]] = set()
    for share in range(99, 0, -1):
        widths = []
        for stage, head in zip(layout.down, head_widths, strict=True):
            step = math.lcm(layout.norm_groups, head)
            widths.append(max(step, round(stage.channels * share / 100 / step) * step))
        if tuple(widths) in tried:
            continue
        tried.add(tuple(widths))
        narrower = UNetLayout(
            name=f"uniform-{share}",
            down=tuple(Stage(width, s.resnets, s.attentions) for width, s in zip(widths, layout.down, strict=True)),
            mid=Stage(widths[-1], layout.mid.resnets, layout.mid.attentions),
            up=tuple(
                Stage(width, s.resnets, s.attentions) for width, s in zip(reversed(widths), layout.up, strict=True)
            ),
            cross_attention_dim=layout.cross_attention_dim,
            heads=tuple(width // head for width, head in zip(widths, head_widths, strict=True)),
            in_channels=layout.in_channels,
            out_channels=layout.out_channels,
            norm_groups=layout.norm_groups,
        )
        if latency(narrower) <= target_ms:
            return narrower
    raise UsageError(f"A target of {target_ms:.4g} ms can't be reached by narrowing '{layout.name}'.")


def narrow(unet: UNet, layout: UNetLayout) -> UNet:
    """`unet`'s leading channels (and attention heads) in a narrower layout of the same blocks."""
    target = UNet(layout)
    source = unet.state_dict()
    before, after = _joined_inputs(unet.layout), _joined_inputs(layout)
    with torch.no_grad():
        for key, parameter in target.state_dict().items():
            weight = source[key]
            for axis, size in enumerate(parameter.shape):
                if weight.shape[axis] != size:
                    old, new = _parts(key, axis, weight.shape[axis], size, before, after)
                    pieces = torch.split(weight, old, dim=axis)
                    weight = torch.cat([p.narrow(axis, 0, n) for p, n in zip(pieces, new, strict=True)], dim=axis)
            parameter.copy_(weight)
    return target.to(next(unet.parameters()).device)


def _parts(
    key: str, axis: int, old: int, new: int, before: dict[str, list[int]], after: dict[str, list[int]]
) -> tuple[list[int], list[int]]:
    """What an axis joins, before and after: a state and its skip connection, values and gates, or one thing."""
    takes_both = _TAKES_BOTH.fullmatch(key)
    if takes_both and axis == (0 if "norm1" in key else 1):
        return before[takes_both[1]], after[takes_both[1]]
    if ".ff.net.0.proj." in key and axis == 0:
        return [old // 2] * 2, [new // 2] * 2
    return [old], [new]


def _joined_inputs(layout: UNetLayout) -> dict[str, list[int]]:
    """Widths of the state and the skip connection that each ResNet of an up stage takes."""
    skips = [layout.down[0].channels]
    for level, stage in enumerate(layout.down):
        skips += [stage.channels] * (stage.resnets + (level + 1 < len(layout.down)))
    current = layout.mid.channels
    joined: dict[str, list[int]] = {}
    for level, stage in enumerate(layout.up):
        for index in range(stage.resnets):
            joined[f"up_blocks.{level}.resnets.{index}"] = [current, skips.pop()]
            current = stage.channels
    return joined
