"""The fixed prompts that samplers are measured on, with the real pictures that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfmobile.train.data.compose import compose_batch, render
from sfmobile.train.data.english import with_article
from sfmobile.train.data.scenes import Plan, Planner, in_style
from sfmobile.train.data.split import HELD_OUT, TRAIN, holds_out_background, holds_out_colour, holds_out_pair
from sfmobile.train.metrics.compositions import ColourReferences
from sfmobile.train.metrics.memorisation import as_bytes

if TYPE_CHECKING:
    from sfmobile.train.data.compose import SpritePool

COMPOSED_KINDS = {"background": 0.25, "recolour": 0.25, "count": 0.25, "pair": 0.25}
_BATCH = 256
# Batches of the planner that are looked through for held-out combinations, about one composition in twenty.
_SEARCHED = 200


@dataclass(frozen=True)
class PromptSet:
    """Captions, the real pictures that they describe (uint8 (N, 3, S, S), CPU) and what a program can check of them.

    texts: what each picture should be recognised as, where that differs from the prompt.
    """

    captions: list[str]
    pictures: Tensor
    attributes: list[dict[str, Any]]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def with_splits(pool: SpritePool, splits: Sequence[str], kinds: dict[str, float] | None = None) -> SpritePool:
    """The same sprites with a planner that draws from `splits` and may join what is held out of training."""
    return type(pool)(pool.sprites, pool.pixels, Planner(pool.sprites, splits, kinds, judge=True))


def distribution_prompts(pool: SpritePool, count: int, splits: Sequence[str], seed: int) -> PromptSet:
    """`count` compositions of the usual kinds from the sprites of `splits`."""
    source = with_splits(pool, splits)
    pictures, captions, attributes = [], [], []
    for index in range(-(-count // _BATCH)):
        images, texts, says = compose_batch(source, index, _BATCH, seed)
        pictures.append(as_bytes(images).cpu())
        captions += texts
        attributes += says
    return PromptSet(captions[:count], torch.cat(pictures)[:count], attributes[:count], captions[:count])


def recognition_prompts(pool: SpritePool) -> PromptSet:
    """Each held-out concept × style once: "a dog, flat style", to be recognised as "a dog"."""
    rows = [n for n, s in enumerate(pool.sprites) if s.split == HELD_OUT and s.tone is None]
    texts = [with_article(pool.sprites[n].phrase) for n in rows]
    captions = [in_style(text, pool.sprites[n].style, 0.0) for text, n in zip(texts, rows, strict=True)]
    parts = [portraits(pool, rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    return PromptSet(captions, torch.cat([as_bytes(part).cpu() for part in parts]), [{} for _ in rows], texts)


def composed_prompts(pool: SpritePool, each: int, references: ColourReferences, seed: int) -> PromptSet:
    """`each` compositions of every checkable kind whose combination the generator never saw.

    The object and the colour (or the other object) are known, the two together are held out; counts, which nothing
    holds out, are of held-out drawings.
    """
    seen = with_splits(pool, (TRAIN, HELD_OUT), COMPOSED_KINDS)
    drawn = with_splits(pool, (HELD_OUT,), {"count": 1.0})
    kept = [_selected(seen.planner, kind, held_out, each, seed) for kind, held_out in _held_out(references).items()]
    kept.append(_selected(drawn.planner, "count", lambda says: True, each, seed))
    plans = [plan for part in kept for plan in part]
    pictures = [as_bytes(render(pool.pixels, plan)).cpu() for plan in plans]
    captions = [caption for plan in plans for caption in plan.captions]
    attributes = [says for plan in plans for says in plan.attributes]
    return PromptSet(captions, torch.cat(pictures), attributes, captions)


def _held_out(references: ColourReferences) -> dict[str, Callable[[dict[str, Any]], bool]]:
    return {
        "background": lambda says: holds_out_background(says["concepts"][0], says["background"]),
        "recolour": lambda says: holds_out_colour(says["concepts"][0], says["recolour"]),
        "pair": lambda says: holds_out_pair(*says["concepts"]) and references.decidable(*says["concepts"]),
    }


def _selected(
    planner: Planner, kind: str, wanted: Callable[[dict[str, Any]], bool], count: int, seed: int
) -> list[Plan]:
    """Plans of the first `count` pictures of a kind that are wanted, as they come in the planner's batches."""
    plans: list[Plan] = []
    for index in range(_SEARCHED):
        plan = planner.plan(index, _BATCH, seed)
        rows = [row for row, says in enumerate(plan.attributes) if says["kind"] == kind and wanted(says)]
        if rows:
            plans.append(_subset(plan, rows[:count]))
            count -= len(rows[:count])
        if count == 0:
            break
    return plans


def _subset(plan: Plan, rows: Sequence[int]) -> Plan:
    """Only some of a plan's pictures."""
    number = {row: position for position, row in enumerate(rows)}
    placed = np.flatnonzero(np.isin(plan.picture, rows))
    return Plan(
        background=plan.background[list(rows)],
        picture=np.array([number[int(row)] for row in plan.picture[placed]], np.int64),
        sprite=plan.sprite[placed],
        place=plan.place[placed],
        recolour=plan.recolour[placed],
        captions=[plan.captions[row] for row in rows],
        attributes=[plan.attributes[row] for row in rows],
    )


def portraits(pool: SpritePool, rows: Sequence[int]) -> Tensor:
    """The given sprites, each alone in the middle of a white picture: (N, 3, S, S) in [-1, 1]."""
    count = len(rows)
    plan = Plan(
        background=np.ones((count, 3), np.float32),
        picture=np.arange(count),
        sprite=np.asarray(rows, np.int64),
        place=np.tile(np.array([0.82, 0.0, 0.0], np.float32), (count, 1)),
        recolour=np.zeros((count, 6), np.float32),
        captions=[""] * count,
        attributes=[{}] * count,
    )
    return render(pool.pixels, plan)
