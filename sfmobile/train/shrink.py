"""The other ways to a given latency, which evolving must beat at equal training."""

from __future__ import annotations

import torch

from sfmobile.errors import UsageError
from sfmobile.nets.layout import Stage, UNetLayout
from sfmobile.train.evolve import Latency
from sfmobile.train.mutation import actions, apply


def random_removal(layout: UNetLayout, latency: Latency, target_ms: float, seed: int) -> UNetLayout:
    """Remove blocks at random until the layout meets the target."""
    generator = torch.Generator().manual_seed(seed)
    while latency(layout) > target_ms:
        removals = [action for action in actions(layout) if action.kind == "remove"]
        if not removals:
            raise UsageError(f"A target of {target_ms:.4g} ms can't be reached by removing blocks of '{layout.name}'.")
        pick = int(torch.randint(len(removals), (), generator=generator))
        layout = apply(layout, removals[pick], name=f"random-{seed}")
    return layout


def uniform_shrinking(layout: UNetLayout, latency: Latency, target_ms: float) -> UNetLayout:
    """The widest uniformly narrowed layout that meets the target, with attention heads of their old width."""
    head_widths = [stage.channels // layout.heads_at(level) for level, stage in enumerate(layout.down)]
    unit = layout.norm_groups
    for share in range(99, 0, -1):
        widths = []
        for level, stage in enumerate(layout.down):
            step = max(unit, head_widths[level])
            widths.append(max(step, stage.channels * share // 100 // step * step))
        narrowed = UNetLayout(
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
        if latency(narrowed) <= target_ms:
            return narrowed
    raise UsageError(f"A target of {target_ms:.4g} ms can't be reached by narrowing '{layout.name}'.")
