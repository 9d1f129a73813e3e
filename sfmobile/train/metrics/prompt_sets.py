"""The fixed prompts that samplers are measured on, with the real pictures that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sfmobile.train.data.compose import compose_batch, render
from sfmobile.train.data.english import with_article
from sfmobile.train.data.prompts import evaluation_prompts
from sfmobile.train.data.scenes import Plan, Planner
from sfmobile.train.data.split import HELD_OUT
from sfmobile.train.data.wording import in_style
from sfmobile.train.metrics.memorisation import as_bytes

if TYPE_CHECKING:
    from sfmobile.train.data.compose import SpritePool

COMPOSED_KINDS = {"background": 0.25, "recolour": 0.25, "count": 0.25, "pair": 0.25}
COMPOSED_SPLITS = ("background", "colour", "composed", "count", "pair")
_BATCH = 256


@dataclass(frozen=True)
class PromptSet:
    """Captions, the real pictures that they describe and what a program can check of them.

    pictures: uint8 (N, 3, S, S) on the CPU, or none (0 rows) for prompts that nobody drew; texts: what each picture
    should be recognised as, where that differs from the prompt.
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


def distribution_prompts(
    pool: SpritePool,
    count: int,
    splits: Sequence[str],
    seed: int,
    kinds: dict[str, float] | None = None,
    side: int | None = None,
) -> PromptSet:
    """`count` compositions from the sprites of `splits`, of the usual kinds unless others are asked for.

    side: the pictures' side in pixels, by default the sprites' own.
    """
    source = with_splits(pool, splits, kinds)
    pictures, captions, attributes = [], [], []
    for index in range(-(-count // _BATCH)):
        images, texts, says = compose_batch(source, index, _BATCH, seed)
        pictures.append(as_bytes(resized(images, side)).cpu())
        captions += texts
        attributes += says
    return PromptSet(captions[:count], torch.cat(pictures)[:count], attributes[:count], captions[:count])


def recognition_prompts(pool: SpritePool, side: int | None = None) -> PromptSet:
    """Each held-out concept × style once: "a dog, flat style", to be recognised as "a dog"."""
    rows = [n for n, s in enumerate(pool.sprites) if s.split == HELD_OUT and s.tone is None]
    texts = [with_article(pool.sprites[n].phrase) for n in rows]
    captions = [in_style(text, pool.sprites[n].style, 0.0) for text, n in zip(texts, rows, strict=True)]
    return PromptSet(captions, portraits(pool, rows, side), [{} for _ in rows], texts)


def composed_prompts(pool: SpritePool, each: int) -> PromptSet:
    """Up to `each` prompts of every checkable kind whose combination the generator never saw; without pictures.

    The object and the colour (or the other object) are known, the two together are held out; counts, which nothing
    holds out, are of known objects.
    """
    prompts = [prompt for split in COMPOSED_SPLITS for prompt in evaluation_prompts(pool.sprites, split, each)]
    captions = [caption for caption, _ in prompts]
    return PromptSet(captions, torch.empty(0, 3, 0, 0, dtype=torch.uint8), [says for _, says in prompts], captions)


def portraits(pool: SpritePool, rows: Sequence[int], side: int | None = None) -> Tensor:
    """The given sprites, each alone in the middle of a white picture: uint8 (N, 3, side, side) on the CPU."""
    parts = [_portraits(pool, rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    return torch.cat([as_bytes(resized(part, side)).cpu() for part in parts])


def _portraits(pool: SpritePool, rows: Sequence[int]) -> Tensor:
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


def resized(images: Tensor, side: int | None) -> Tensor:
    """Images (B, 3, H, W) at another side, antialiased; unchanged if `side` is None or theirs."""
    if side is None or images.shape[-1] == side:
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
