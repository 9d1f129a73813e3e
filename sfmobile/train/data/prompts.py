"""The evaluation's fixed prompts: pairs the generator never saw, and compositions nobody drew for it.

Every prompt comes with the attributes of `scenes` that a program can check, so that a picture made from it is judged
without a person. The list depends on the sprites' records and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sfmobile.errors import UsageError
from sfmobile.train.data.colours import COLOURS, differ
from sfmobile.train.data.english import with_article
from sfmobile.train.data.scenes import RELATIONS, Attributes, contrasts, describe
from sfmobile.train.data.split import (
    HELD_OUT,
    TRAIN,
    fraction,
    holds_out_background,
    holds_out_colour,
    holds_out_pair,
    holds_out_tone,
)
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

Prompt = tuple[str, Attributes]

# What each list is for: concepts as trained on (for the floor), then what was held out, then several bindings at once.
SPLITS = ("seen", "style", "tone", "colour", "background", "pair", "count", "composed")


def evaluation_prompts(sprites: Sequence[Sprite], split: str, limit: int = 256) -> list[Prompt]:
    """Up to `limit` prompts, the same in every run.

    - ``seen``: a concept as trained on.
    - ``style``: a concept with the word of a style it is never trained in.
    - ``tone``: a person or hand with a skin tone it is never trained in.
    - ``colour``, ``background``, ``pair``: an object with a colour, a background or a second object it is never
      trained with.
    - ``count``: two, three or four of an object (counted in training, so the floor of the next).
    - ``composed``: a recoloured object on a named background, held out in at least one of the two.

    Raises:
        UsageError: there is no such split.
    """
    makers = {
        "seen": _seen,
        "style": _style,
        "tone": _tone,
        "colour": _colour,
        "background": _background,
        "pair": _pair,
        "count": _count,
        "composed": _composed,
    }
    if split not in makers:
        raise UsageError(f"there are no evaluation prompts {split!r}; expected one of {', '.join(SPLITS)}")
    prompts: dict[str, Attributes] = {}
    for caption, attributes in makers[split](sprites):
        prompts.setdefault(caption, attributes)
    # By hash, so that a shorter list is a sample of the longer one, not its first letters.
    ranked = sorted(prompts.items(), key=lambda item: fraction("prompt", split, item[0]))
    return ranked[:limit]


def _concepts(sprites: Sequence[Sprite]) -> list[Sprite]:
    """One record a concept, without tones, of everyday groups, that is trained on."""
    first: dict[str, Sprite] = {}
    for sprite in sprites:
        if sprite.tone is None and sprite.split == TRAIN and sprite.group in COUNTED_GROUPS:
            first.setdefault(sprite.base, sprite)
    return list(first.values())


def _recolourable(sprites: Sequence[Sprite]) -> list[tuple[Sprite, str]]:
    pairs = {
        (sprite.base, colour): (sprite, colour)
        for sprite in sprites
        if sprite.split == TRAIN and sprite.tone is None
        for colour in sprite.recolours
    }
    return list(pairs.values())


def _seen(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite in _concepts(sprites):
        yield with_article(sprite.phrase), describe("plain", [sprite])


def _style(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite in sprites:
        if sprite.split == HELD_OUT and sprite.tone is None:
            caption = in_style(with_article(sprite.phrase), sprite.style, 0.0)
            yield caption, describe("style", [sprite], style=sprite.style)


def _tone(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite in sprites:
        if holds_out_tone(sprite.base, sprite.tone):
            yield with_tone(with_article(sprite.phrase), sprite), describe("tone", [sprite], tone=sprite.tone)


def _colour(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite, colour in _recolourable(sprites):
        if holds_out_colour(sprite.base, colour):
            yield qualified(sprite.phrase, colour), describe("recolour", [sprite], recolour=colour)


def _background(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite in _concepts(sprites):
        for colour in COLOURS:
            if holds_out_background(sprite.base, colour) and contrasts(sprite, colour):
                caption = on_background(with_article(sprite.phrase), colour)
                yield caption, describe("background", [sprite], background=colour)


def _pair(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    concepts = sorted(_concepts(sprites), key=lambda sprite: fraction("first", sprite.base))
    for number, one in enumerate(concepts):
        for other in concepts[number + 1 : number + 60]:
            if holds_out_pair(one.base, other.base):
                relation = list(RELATIONS)[int(fraction("relation", one.base, other.base) * len(RELATIONS))]
                words = RELATION_WORDS[relation][0]
                caption = f"{with_article(one.phrase)} {words} {with_article(other.phrase)}"
                yield caption, describe("pair", [one, other], relation=relation)


def _count(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite in _concepts(sprites):
        name = plural_of(sprite)
        if name is not None:
            count = 2 + int(fraction("count", sprite.base) * len(NUMBERS))
            yield f"{NUMBERS[count]} {name}", describe("count", [sprite], count=count)


def _composed(sprites: Sequence[Sprite]) -> Iterable[Prompt]:
    for sprite, colour in _recolourable(sprites):
        for background in COLOURS:
            held_out = holds_out_colour(sprite.base, colour) or holds_out_background(sprite.base, background)
            if not held_out or not differ(COLOURS[colour], COLOURS[background]):
                continue
            caption = on_background(qualified(sprite.phrase, colour), background)
            yield caption, describe("recolour", [sprite], recolour=colour, background=background)
