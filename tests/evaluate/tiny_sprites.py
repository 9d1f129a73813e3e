"""A pool of plain shapes in five styles: enough concepts for every kind of composition, 32 pixels wide."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from sfmobile.train.data.artwork import STYLES
from sfmobile.train.data.colours import COLOURS
from sfmobile.train.data.compose import SpritePool
from sfmobile.train.data.scenes import Composer
from sfmobile.train.data.split import SPLITS, style_splits
from sfmobile.train.data.sprites import Sprite

SIDE = 32
OBJECTS = ("apple", "boat", "cup", "drum", "egg", "fox", "guitar", "hat", "igloo", "jar", "kite", "lamp", "mug", "nut")
# Shapes may be recoloured if their own colour has a hue.
_HUES = {"red": 0.0, "yellow": 49.0, "green": 130.0, "blue": 219.0}


def shape(number: int, colour: str, style: int) -> np.ndarray:
    """One drawing, premultiplied RGBA (4, SIDE, SIDE): a disc, a box or a diamond."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    inside = (x**2 + y**2 < 0.7, np.maximum(abs(x), abs(y)) < 0.75, abs(x) + abs(y) < 0.9)[number % 3]
    rgb = np.array(COLOURS[colour], np.float32) * (1 - 0.03 * style)
    return (
        np.concatenate([np.tile(rgb[:, None, None], (1, SIDE, SIDE)), np.full((1, SIDE, SIDE), 255.0)]) * inside
    ).astype(np.uint8)


def sprite_pool(splits: Sequence[str] = SPLITS) -> SpritePool:
    colours = ("red", "yellow", "green", "blue")
    sprites, pixels = [], []
    for number, name in enumerate(OBJECTS):
        base = f"1F{number:03X}"
        colour = colours[number % 4]
        split = dict(style_splits(base, STYLES))
        if number % 2:
            split[STYLES[number % 5]] = "held_out"
        for style_number, style in enumerate(STYLES):
            pixels.append(shape(number, colour, style_number))
            sprites.append(
                Sprite(
                    hexcode=base,
                    base=base,
                    style=style,
                    phrase=name,
                    tags=("thing",),
                    group="objects",
                    subgroup=200,
                    tone=None,
                    split=split[style],
                    colour=colour,
                    hue=_HUES[colour],
                    recolours=("purple", "orange"),
                    mean=tuple(value / 255 for value in COLOURS[colour]),
                )
            )
    return SpritePool(sprites, torch.from_numpy(np.stack(pixels)), Composer(sprites, splits, judge=True))


def without_split(pool: SpritePool, split: str) -> SpritePool:
    """The pool with the sprites of `split` given to training instead."""
    sprites = [replace(s, split="train") if s.split == split else s for s in pool.sprites]
    return SpritePool(sprites, pool.pixels, Composer(sprites, SPLITS))


def encode(captions: Sequence[str]) -> Tensor:
    """Words as token ids by hash: start, words, end and padding as CLIP has them, 77 of them."""
    ids = torch.full((len(captions), 77), 49407)
    for row, caption in enumerate(captions):
        words = caption.replace(",", " ,").split()
        hashed = [int(hashlib.md5(word.encode()).hexdigest(), 16) % 500 + 1 for word in words]
        ids[row, : len(words) + 1] = torch.tensor([49406, *hashed])
    return ids


class PixelFeatures(nn.Module):
    """Stands in for the feature network: the picture at 4 × 4."""

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


class PixelDistance(nn.Module):
    """Stands in for LPIPS: mean absolute difference."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean(dim=(1, 2, 3))
