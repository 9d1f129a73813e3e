"""Truthful compositions before they are drawn: what is in each picture of a batch, where, and the caption that says so.

A batch of them comes from a counter-based generator keyed by (seed, batch index): batch 1,000 is the same whether or
not batches 0 to 999 were made before it, so that a resumed run sees the data it would have seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfmobile.train.data.colours import COLOURS, JITTER, NAMES, RECOLOURS, differ, says_colour
from sfmobile.train.data.english import article, with_article
from sfmobile.train.data.split import holds_out_background, holds_out_colour, holds_out_pair
from sfmobile.train.data.sprites import Sprite
from sfmobile.train.data.wording import (
    COUNTED_GROUPS,
    NUMBERS,
    RELATION_WORDS,
    in_style,
    on_background,
    plural_of,
    qualified,
    with_tone,
)

Attributes = dict[str, Any]

# Shares of the kinds of picture. Recognising the object comes first; everything else is binding of attributes.
KINDS: dict[str, float] = {
    "plain": 0.38,
    "style": 0.18,
    "background": 0.14,
    "colour": 0.04,
    "recolour": 0.08,
    "count": 0.06,
    "pair": 0.08,
    "size": 0.04,
}
# Side of a copy's canvas as a share of the picture's, and the copies' centres in [-1, 1] (x right, y down).
ARRANGEMENTS: dict[int, tuple[float, tuple[tuple[float, float], ...]]] = {
    2: (0.46, ((-0.48, 0.0), (0.48, 0.0))),
    3: (0.44, ((0.0, -0.46), (-0.48, 0.46), (0.48, 0.46))),
    4: (0.44, ((-0.48, -0.48), (0.48, -0.48), (-0.48, 0.48), (0.48, 0.48))),
}
SIZES = {"tiny": (0.22, 0.28), "small": (0.36, 0.46), "large": (1.0, 1.06)}
NORMAL_SIZE = (0.74, 0.88)
RELATIONS = {"left": (-0.5, 0.0), "right": (0.5, 0.0), "above": (0.0, -0.5), "below": (0.0, 0.5)}
# How often a group's concepts are drawn, relative to their number.
GROUP_WEIGHTS = {
    "smileys": 1.3,
    "people": 0.8,
    "nature": 1.5,
    "food": 1.5,
    "travel": 1.0,
    "activities": 1.2,
    "objects": 1.0,
    "symbols": 0.4,
    "flags": 0.25,
}
_CLOCKS, _FAMILIES, _GEOMETRIC = 58, (30, 31), 96
# All skin tones of a concept together weigh this much beside the drawing without one.
_TONES_WEIGHT = 1.0
_DRAWS = 20


@dataclass(frozen=True)
class Scenes:
    """One batch before rendering. M sprites are placed in B pictures, in drawing order.

    background float32 (B, 3) in [0, 1]; picture, sprite int64 (M,); place float32 (M, 3): side as a share of the
    picture's, centre x, centre y in [-1, 1]; recolour float32 (M, 6): on (0 or 1), the sprite's hue, target hue
    (degrees), saturation and value factors, lift.
    """

    background: NDArray[np.float32]
    picture: NDArray[np.int64]
    sprite: NDArray[np.int64]
    place: NDArray[np.float32]
    recolour: NDArray[np.float32]
    captions: list[str]
    attributes: list[Attributes]

    def only(self, pictures: Sequence[int]) -> Scenes:
        """Those of some of the pictures, numbered anew in the given order; none twice."""
        number = np.full(len(self.captions), -1, np.int64)
        number[list(pictures)] = np.arange(len(pictures))
        placed = number[self.picture] >= 0
        return Scenes(
            self.background[list(pictures)],
            number[self.picture][placed],
            self.sprite[placed],
            self.place[placed],
            self.recolour[placed],
            [self.captions[picture] for picture in pictures],
            [self.attributes[picture] for picture in pictures],
        )


class _Choice:
    """Weighted choice among some of the sprites by one uniform number."""

    def __init__(self, members: Sequence[int], weights: NDArray[np.float64]) -> None:
        self._members = list(members)
        self._cumulative: list[float] = np.cumsum(weights[self._members]).tolist() if members else []

    def __len__(self) -> int:
        return len(self._members)

    def pick(self, uniform: float) -> int:
        at = bisect_right(self._cumulative, uniform * self._cumulative[-1])
        return self._members[min(at, len(self._members) - 1)]


class Composer:
    """Composes batches from the sprites' records alone: no pixels, no torch; cheap enough to run in worker processes.

    Args:
        sprites: records in the order of the pixels.
        splits: which parts to draw from (see `split.py`).
        kinds: shares of the kinds of picture, in place of KINDS.
        judge: compose for the dual encoder: pairs held out from the generator are then allowed.
    """

    def __init__(
        self,
        sprites: Sequence[Sprite],
        splits: Sequence[str] = ("train",),
        kinds: dict[str, float] | None = None,
        *,
        judge: bool = False,
    ) -> None:
        self.sprites = list(sprites)
        self.judge = judge
        allowed = [number for number, sprite in enumerate(self.sprites) if sprite.split in splits]
        weights = sprite_weights(self.sprites, allowed)
        self._all = _Choice(allowed, weights)
        self._plural = [plural_of(sprite) for sprite in self.sprites]
        self._phrase = [with_article(sprite.phrase) for sprite in self.sprites]
        calm = [n for n in allowed if self.sprites[n].tone is None and self.sprites[n].subgroup not in _FAMILIES]
        self._kinds: dict[str, _Choice] = {
            "count": _Choice([n for n in calm if self._plural[n]], weights),
            "recolour": _Choice([n for n in calm if self._recolours(n)], weights),
            "colour": _Choice([n for n in calm if _colour_can_be_named(self.sprites[n])], weights),
        }
        by_style = {style: [n for n in calm if self.sprites[n].style == style] for style in {s.style for s in sprites}}
        self._by_style = {
            style: _Choice([n for n in members if self.sprites[n].group in COUNTED_GROUPS], weights)
            for style, members in by_style.items()
        }
        self.kinds = dict(KINDS if kinds is None else kinds)
        shares = dict(self.kinds)
        for kind, choice in self._kinds.items():
            if not len(choice):
                shares.pop(kind, None)
        if not any(map(len, self._by_style.values())):
            shares.pop("pair", None)
        self._kind_names = list(shares)
        self._kind_bounds: list[float] = np.cumsum(list(shares.values())).tolist()

    def compose(self, index: int, batch_size: int, seed: int) -> Scenes:
        """Batch number `index` of the endless, fixed sequence that `seed` stands for."""
        generator = np.random.Generator(np.random.Philox(key=seed, counter=index << 64))
        uniforms = generator.random((batch_size, _DRAWS)).tolist()
        canvas = _Canvas()
        for row in uniforms:
            draw = _Draws(row)
            kind = self._kind_names[bisect_right(self._kind_bounds, draw() * self._kind_bounds[-1])]
            getattr(self, f"_compose_{kind}")(canvas, draw)
        return canvas.finish()

    # Each kind below places its sprites on the canvas and closes the picture with a caption that is true of it.

    def _compose_plain(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._all.pick(draw())
        sprite = self.sprites[number]
        caption = self._described(number, draw)
        chance = draw()
        if chance < 0.1 and sprite.tags:
            caption = f"{caption}, {sprite.tags[int(draw() * len(sprite.tags))]}"
        elif chance < 0.2 and sprite.tone is None:
            caption = sprite.phrase
        elif chance < 0.24:
            caption = f"a picture of {caption}"
        self._single(canvas, draw, number, caption, "plain", unnamed=True)

    def _compose_style(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._all.pick(draw())
        caption = in_style(self._described(number, draw), self.sprites[number].style, draw())
        self._single(canvas, draw, number, caption, "style", unnamed=True, style=self.sprites[number].style)

    def _compose_background(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._all.pick(draw())
        sprite = self.sprites[number]
        caption = self._described(number, draw)
        style = sprite.style if draw() < 0.25 else None
        if style is not None:
            caption = in_style(caption, style, 0.0)
        name, rgb = self._named_background(sprite, draw)
        leading = draw() >= 0.85 and style is None
        caption = f"on {article(name)} {name} background, {caption}" if leading else on_background(caption, name)
        self._single(canvas, draw, number, caption, "background", background=name, rgb=rgb, style=style)

    def _compose_colour(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._kinds["colour"].pick(draw())
        sprite = self.sprites[number]
        caption = qualified(sprite.phrase, str(sprite.colour))
        self._single(canvas, draw, number, caption, "colour", unnamed=True, colour=sprite.colour)

    def _compose_recolour(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._kinds["recolour"].pick(draw())
        sprite = self.sprites[number]
        names = self._recolours(number)
        name = names[int(draw() * len(names))]
        caption = qualified(sprite.phrase, name)
        background, rgb = None, (1.0, 1.0, 1.0)
        if draw() < 0.2:
            others = [
                other
                for other in NAMES
                if differ(COLOURS[name], COLOURS[other])
                and (self.judge or not holds_out_background(sprite.base, other))
            ]
            background = others[int(draw() * len(others))]
            rgb = _jittered(background, draw)
            caption = on_background(caption, background)
        self._single(canvas, draw, number, caption, "recolour", background=background, rgb=rgb, recolour=name)

    def _compose_size(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._all.pick(draw())
        sprite = self.sprites[number]
        size = list(SIZES)[int(draw() * len(SIZES))]
        caption = with_tone(qualified(sprite.phrase, size), sprite)
        self._single(canvas, draw, number, caption, "size", unnamed=True, size=size)

    def _compose_count(self, canvas: _Canvas, draw: _Draws) -> None:
        number = self._kinds["count"].pick(draw())
        sprite = self.sprites[number]
        count = 2 + int(draw() * 3)
        side, centres = ARRANGEMENTS[count]
        name, rgb = None, (1.0, 1.0, 1.0)
        caption = f"{NUMBERS[count]} {self._plural[number]}"
        if draw() < 0.2:
            name, rgb = self._named_background(sprite, draw)
            caption = on_background(caption, name)
        for x, y in centres:
            scale = side * (0.94 + 0.08 * draw())
            canvas.place(number, scale, x + 0.03 * (2 * draw() - 1), y + 0.03 * (2 * draw() - 1))
        canvas.close(rgb, caption, describe("count", [sprite], background=name, count=count))

    def _compose_pair(self, canvas: _Canvas, draw: _Draws) -> None:
        styles = [style for style, choice in sorted(self._by_style.items()) if len(choice) > 1]
        choice = self._by_style[styles[int(draw() * len(styles))]]
        first = choice.pick(draw())
        for _ in range(4):
            second = choice.pick(draw())
            one, other = self.sprites[first], self.sprites[second]
            if one.base != other.base and (self.judge or not holds_out_pair(one.base, other.base)):
                break
        else:
            self._compose_plain(canvas, draw)
            return
        relation = list(RELATIONS)[int(draw() * 4)]
        words = RELATION_WORDS[relation]
        caption = f"{self._phrase[first]} {words[int(draw() * len(words))]} {self._phrase[second]}"
        x, y = RELATIONS[relation]
        for number, sign in ((first, 1), (second, -1)):
            along, across = 0.03 * (2 * draw() - 1), 0.08 * (2 * draw() - 1)
            jitter = (along, across) if x else (across, along)
            canvas.place(number, 0.44 + 0.05 * (along + 0.5), sign * x + jitter[0], sign * y + jitter[1])
        canvas.close((1.0, 1.0, 1.0), caption, describe("pair", [one, other], relation=relation))

    def _recolours(self, number: int) -> list[str]:
        sprite = self.sprites[number]
        return [name for name in sprite.recolours if self.judge or not holds_out_colour(sprite.base, name)]

    def _described(self, number: int, draw: _Draws) -> str:
        sprite = self.sprites[number]
        return with_tone(self._phrase[number], sprite) if draw() < 0.9 else self._phrase[number]

    def _named_background(self, sprite: Sprite, draw: _Draws) -> tuple[str, tuple[float, float, float]]:
        names = [
            name
            for name in NAMES
            if contrasts(sprite, name) and (self.judge or not holds_out_background(sprite.base, name))
        ]
        name = names[int(draw() * len(names))]
        return name, _jittered(name, draw)

    def _single(
        self,
        canvas: _Canvas,
        draw: _Draws,
        number: int,
        caption: str,
        kind: str,
        *,
        unnamed: bool = False,
        background: str | None = None,
        rgb: tuple[float, float, float] = (1.0, 1.0, 1.0),
        **attributes: str | None,
    ) -> None:
        """One sprite near the centre. `unnamed`: the background is white, or now and then a pale tint."""
        sprite = self.sprites[number]
        if unnamed:
            rgb = _unnamed_background(sprite, draw)
        low, high = SIZES.get(attributes.get("size") or "", NORMAL_SIZE)
        jitter = 0.05 if low > 0.5 else 0.12
        recolour = attributes.get("recolour")
        canvas.place(
            number,
            low + (high - low) * draw(),
            jitter * (2 * draw() - 1),
            jitter * (2 * draw() - 1),
            (sprite.hue or 0.0, recolour) if recolour else None,
        )
        canvas.close(rgb, caption, describe(kind, [sprite], background=background, **attributes))


class _Draws:
    """The uniform numbers of one picture, taken one after another."""

    def __init__(self, row: list[float]) -> None:
        self._row = iter(row)

    def __call__(self) -> float:
        return next(self._row)


class _Canvas:
    """Collects the pictures of a batch."""

    def __init__(self) -> None:
        self.backgrounds: list[tuple[float, float, float]] = []
        self.placed: list[tuple[int, int, float, float, float]] = []
        self.recolours: list[tuple[float, ...]] = []
        self.captions: list[str] = []
        self.attributes: list[Attributes] = []

    def place(self, sprite: int, side: float, x: float, y: float, recolour: tuple[float, str] | None = None) -> None:
        self.placed.append((len(self.captions), sprite, side, x, y))
        if recolour is None:
            self.recolours.append((0.0, 0.0, 0.0, 1.0, 1.0, 0.0))
        else:
            hue, target = recolour[0], RECOLOURS[recolour[1]]
            self.recolours.append((1.0, hue, target.hue, target.saturation, target.value, target.lift))

    def close(self, background: tuple[float, float, float], caption: str, attributes: Attributes) -> None:
        self.backgrounds.append(background)
        self.captions.append(caption)
        self.attributes.append({**attributes, "background_rgb": background})

    def finish(self) -> Scenes:
        placed = np.array(self.placed, np.float64).reshape(-1, 5)
        return Scenes(
            np.array(self.backgrounds, np.float32).reshape(-1, 3),
            placed[:, 0].astype(np.int64),
            placed[:, 1].astype(np.int64),
            placed[:, 2:].astype(np.float32),
            np.array(self.recolours, np.float32).reshape(-1, 6),
            self.captions,
            self.attributes,
        )


def sprite_weights(sprites: Sequence[Sprite], allowed: Sequence[int]) -> NDArray[np.float64]:
    """How often each sprite is drawn: by group, a concept's styles and tones sharing the concept's weight."""
    plain: dict[str, int] = {}
    toned: dict[str, int] = {}
    for number in allowed:
        table = plain if sprites[number].tone is None else toned
        table[sprites[number].base] = table.get(sprites[number].base, 0) + 1
    weights = np.zeros(len(sprites))
    for number in allowed:
        sprite = sprites[number]
        weight = GROUP_WEIGHTS[sprite.group] * (0.5 if sprite.subgroup in (_CLOCKS, *_FAMILIES) else 1.0)
        if sprite.tone is None:
            weights[number] = weight / plain[sprite.base]
        else:
            weights[number] = weight * _TONES_WEIGHT / toned[sprite.base]
    return weights


def _colour_can_be_named(sprite: Sprite) -> bool:
    return (
        sprite.colour is not None
        and sprite.group in COUNTED_GROUPS
        and sprite.subgroup != _CLOCKS
        and not says_colour(sprite.phrase)
    )


def contrasts(sprite: Sprite, background: str) -> bool:
    """Whether the sprite stands out from a background of this colour."""
    mean = tuple(255 * value for value in sprite.mean)
    return background != sprite.colour and differ(mean, COLOURS[background])


def _jittered(name: str, draw: _Draws) -> tuple[float, float, float]:
    """A value the name is true of. White stays white; the others vary a little, the same way in every channel."""
    if name == "white":
        return (1.0, 1.0, 1.0)
    shift = JITTER * (2 * draw() - 1)
    red, green, blue = (min(max(value + shift, 0.0), 255.0) / 255 for value in COLOURS[name])
    return (red, green, blue)


def _unnamed_background(sprite: Sprite, draw: _Draws) -> tuple[float, float, float]:
    """White, or a pale tint in one picture of ten, and in most where the sprite itself is nearly white."""
    pale = min(sprite.mean) > 0.86
    if draw() > (0.7 if pale else 0.1):
        return (1.0, 1.0, 1.0)
    depth = 0.22 if pale else 0.14
    red, green, blue = 1 - depth * draw(), 1 - depth * draw(), 1 - depth * draw()
    return (red, green, blue)


def describe(kind: str, sprites: Sequence[Sprite], **more: Any) -> Attributes:
    """What a program can check of a picture. Absent attributes are None; `style` is that of the drawing if named."""
    return {
        "kind": kind,
        "concepts": [sprite.base for sprite in sprites],
        "hexcodes": [sprite.hexcode for sprite in sprites],
        "drawn_style": sprites[0].style if sprites else None,
        "tone": sprites[0].tone if sprites else None,
        "style": None,
        "background": None,
        "count": 1,
        "relation": None,
        "size": None,
        "colour": None,
        "recolour": None,
        **more,
    }
