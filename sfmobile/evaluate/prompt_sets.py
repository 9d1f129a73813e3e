"""The fixed prompts that samplers are measured on, with the real pictures that belong to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sfmobile.errors import UsageError
from sfmobile.evaluate.metrics.memorisation import as_bytes
from sfmobile.train.data.compose import render
from sfmobile.train.data.english import with_article
from sfmobile.train.data.prompts import evaluation_prompts
from sfmobile.train.data.scenes import Attributes, Composer, Scenes
from sfmobile.train.data.split import HELD_OUT, holds_out_background, holds_out_colour, holds_out_pair
from sfmobile.train.data.wording import in_style

if TYPE_CHECKING:
    from sfmobile.train.data.compose import SpritePool
    from sfmobile.train.data.sprites import Sprite

# The lists of composed prompts, and the kind of real composition on which each one's check is checked itself.
COMPOSED_KINDS = {
    "background": "background",
    "colour": "recolour",
    "composed": "recolour",
    "count": "count",
    "pair": "pair",
}
COMPOSED_SPLITS = tuple(COMPOSED_KINDS)
_BATCH = 256
# Of hundreds of batches each shows about a dozen held-out compositions; past this the sprites have none.
_MOST_BATCHES = 1000


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


def with_splits(
    pool: SpritePool, splits: Sequence[str], kinds: dict[str, float] | None = None, *, judge: bool = True
) -> SpritePool:
    """The same sprites with a composer that draws from `splits` and, if `judge`, joins what is held out of training.

    kinds: shares of the kinds of composition, by default the pool's own.
    """
    composer = Composer(pool.sprites, splits, pool.composer.kinds if kinds is None else kinds, judge=judge)
    return type(pool)(pool.sprites, pool.pixels, composer)


def distribution_prompts(
    pool: SpritePool,
    count: int,
    splits: Sequence[str],
    seed: int,
    kinds: dict[str, float] | None = None,
    side: int | None = None,
    *,
    judge: bool = True,
) -> PromptSet:
    """`count` compositions from the sprites of `splits`, of the pool's kinds unless others are asked for.

    side: the pictures' side in pixels, by default the sprites' own; judge: whether what is held out of training may be
    joined.
    """
    source = with_splits(pool, splits, kinds, judge=judge)
    parts = [source.composer.compose(index, _BATCH, seed) for index in range(-(-count // _BATCH))]
    return _rendered(pool, parts, count, side)


def held_out_prompts(
    pool: SpritePool, count: int, splits: Sequence[str], seed: int, side: int | None = None
) -> PromptSet:
    """`count` compositions that training never shows, of the pool's kinds: a held-out drawing, or a known one (of
    `splits`) in a colour, on a background or beside a second object that is held out for it."""
    source = with_splits(pool, (*splits, HELD_OUT))
    parts: list[Scenes] = []
    found = 0
    for index in range(_MOST_BATCHES):
        scenes = source.composer.compose(index, _BATCH, seed)
        first = np.full(_BATCH, -1)
        first[scenes.picture[::-1]] = scenes.sprite[::-1]
        rows = [n for n, says in enumerate(scenes.attributes) if _is_held_out(pool.sprites[first[n]], says)]
        parts.append(scenes.only(rows))
        found += len(rows)
        if found >= count:
            return _rendered(pool, parts, count, side)
    raise UsageError(f"These sprites give only {found} held-out compositions of {count}; lower `pictures`.")


def _is_held_out(sprite: Sprite, says: Attributes) -> bool:
    bases = says["concepts"]
    return (
        sprite.split == HELD_OUT
        or (says["background"] is not None and holds_out_background(bases[0], says["background"]))
        or (says["recolour"] is not None and holds_out_colour(bases[0], says["recolour"]))
        or (says["relation"] is not None and holds_out_pair(*bases))
    )


def kind_shares(prompts: PromptSet) -> dict[str, float]:
    """How often each kind of composition occurs, for a second set of the same mixture."""
    return {kind: float(count) for kind, count in Counter(says["kind"] for says in prompts.attributes).items()}


def _rendered(pool: SpritePool, parts: Sequence[Scenes], count: int, side: int | None) -> PromptSet:
    pictures = [as_bytes(resized(render(pool.pixels, scenes), side)).cpu() for scenes in parts if scenes.captions]
    captions = [caption for scenes in parts for caption in scenes.captions][:count]
    attributes = [says for scenes in parts for says in scenes.attributes][:count]
    return PromptSet(captions, torch.cat(pictures)[:count], attributes, captions)


def recognition_prompts(
    pool: SpritePool, side: int | None = None, splits: Sequence[str] = (HELD_OUT,), repeats: int = 1
) -> PromptSet:
    """Each held-out concept × style `repeats` times: "a dog, flat style", to be recognised as "a dog".

    splits: other parts of the data in place of the held-out one.
    """
    rows = repeats * [n for n, s in enumerate(pool.sprites) if s.split in splits and s.tone is None]
    texts = [with_article(pool.sprites[n].phrase) for n in rows]
    captions = [in_style(text, pool.sprites[n].style, 0.0) for text, n in zip(texts, rows, strict=True)]
    return PromptSet(captions, portraits(pool, rows, side), [{} for _ in rows], texts)


def composed_prompts(pool: SpritePool, each: int, splits: Sequence[str] = COMPOSED_SPLITS) -> PromptSet:
    """Up to `each` prompts of every list in `splits` whose combination the generator never saw; without pictures.

    The object and the colour (or the other object) are known, the two together are held out; counts, which nothing
    holds out, are of known objects.
    """
    prompts = [prompt for split in splits for prompt in evaluation_prompts(pool.sprites, split, each)]
    captions = [caption for caption, _ in prompts]
    return PromptSet(captions, torch.empty(0, 3, 0, 0, dtype=torch.uint8), [says for _, says in prompts], captions)


def trained_checks(kinds: Mapping[str, float] | None) -> tuple[str, ...]:
    """The lists of composed prompts whose kinds of composition a model was trained on; all of them for None."""
    return tuple(check for check in COMPOSED_SPLITS if kinds is None or COMPOSED_KINDS[check] in kinds)


def portraits(pool: SpritePool, rows: Sequence[int], side: int | None = None) -> Tensor:
    """The given sprites, each alone in the middle of a white picture: uint8 (N, 3, side, side) on the CPU."""
    parts = [_portraits(pool, rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    return torch.cat([as_bytes(resized(part, side)).cpu() for part in parts])


def _portraits(pool: SpritePool, rows: Sequence[int]) -> Tensor:
    count = len(rows)
    scenes = Scenes(
        background=np.ones((count, 3), np.float32),
        picture=np.arange(count),
        sprite=np.asarray(rows, np.int64),
        place=np.tile(np.array([0.82, 0.0, 0.0], np.float32), (count, 1)),
        recolour=np.zeros((count, 6), np.float32),
        captions=[""] * count,
        attributes=[{}] * count,
    )
    return render(pool.pixels, scenes)


def resized(images: Tensor, side: int | None) -> Tensor:
    """Images (B, 3, H, W) at another side, antialiased; unchanged if `side` is None or theirs."""
    if side is None or images.shape[-1] == side:
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
