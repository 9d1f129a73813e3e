"""Which pictures a model is trained on: a selection of the sprites, composed and brought to the model's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sfmobile.errors import UsageError
from sfmobile.train.data.compose import SpritePool, compose_batch, load_pool
from sfmobile.train.data.scenes import Composer
from sfmobile.train.data.sprites import Sprite, find_cache


@dataclass(frozen=True)
class Selection:
    """Which sprites.

    splits: parts of the data that are composed (train, judge, held_out); styles, groups: None = all; phrases: single
    concepts outside `groups` to include too; tones: whether skin-tone variants are included.
    """

    splits: tuple[str, ...] = ("train",)
    styles: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    phrases: tuple[str, ...] = ()
    tones: bool = True

    def rows(self, sprites: Sequence[Sprite]) -> list[int]:
        """Rows of the chosen sprites, of every split. `UsageError` if a phrase is unknown or nothing is chosen."""
        unknown = sorted(set(self.phrases) - {sprite.phrase for sprite in sprites})
        if unknown:
            raise UsageError(f"phrases: no sprite is called '{unknown[0]}'; see the index of the sprite cache.")
        chosen = [
            number
            for number, sprite in enumerate(sprites)
            if (self.styles is None or sprite.style in self.styles)
            and (self.groups is None or sprite.group in self.groups or sprite.phrase in self.phrases)
            and (self.tones or sprite.tone is None)
        ]
        if not chosen:
            raise UsageError(f"styles, groups and phrases select none of the {len(sprites)} sprites; widen them.")
        return chosen


@dataclass(frozen=True)
class PicturesConfig(Selection):
    """A selection of the sprites and the picture size.

    side: pixels; kinds: shares of the kinds of composition, None = the data's own.
    """

    side: int = 128
    kinds: dict[str, float] | None = None


class Pictures:
    """Batches of captioned pictures by index: (B, 3, side, side) in [-1, 1] on the device, and their captions."""

    def __init__(self, pool: SpritePool, side: int) -> None:
        self.pool = pool
        self.side = side

    @classmethod
    def open(cls, cache: Path, config: PicturesConfig, device: torch.device) -> Pictures:
        """Load the sprite cache in directory `cache` and keep what `config` selects."""
        pool = load_pool(find_cache(cache), "cpu", splits=config.splits)
        kept = config.rows(pool.sprites)
        sprites = [pool.sprites[number] for number in kept]
        pixels = pool.pixels[torch.tensor(kept)].to(device)
        return cls(SpritePool(sprites, pixels, Composer(sprites, config.splits, config.kinds)), config.side)

    def batch(self, index: int, batch_size: int, seed: int) -> tuple[Tensor, list[str]]:
        """Batch number `index` of the sequence that `seed` stands for."""
        images, captions, _ = compose_batch(self.pool, index, batch_size, seed)
        if images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return images, captions
