"""How captions put styles, colours, sizes, numbers, places and skin tones into words."""

from __future__ import annotations

from sfmobile.train.data.captions import TONES
from sfmobile.train.data.english import article, is_mass, is_plural, plural
from sfmobile.train.data.sprites import Sprite

NUMBERS = {2: "two", 3: "three", 4: "four"}
# The first wording is the one of the evaluation's prompts.
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
# Groups of things that can stand beside each other several at a time.
COUNTED_GROUPS = ("smileys", "nature", "food", "travel", "activities", "objects")


def in_style(caption: str, style: str, chance: float) -> str:
    """A caption with its style word, in one of three wordings chosen by `chance` in [0, 1)."""
    if chance < 0.4:
        return f"{caption}, {style} style"
    return f"{caption} in {style} style" if chance < 0.7 else f"{article(style)} {style} picture of {caption}"


def qualified(phrase: str, adjective: str) -> str:
    """The phrase with an adjective and the article they take together: "a tiny apple", "tiny grapes"."""
    bare = is_plural(phrase) or is_mass(phrase)
    return f"{adjective} {phrase}" if bare else f"{article(adjective)} {adjective} {phrase}"


def plural_of(sprite: Sprite) -> str | None:
    """What several of it are called, or None where that isn't sure or copies of it make no sense."""
    return plural(sprite.phrase) if sprite.group in COUNTED_GROUPS else None


def on_background(caption: str, colour: str) -> str:
    """The caption with its background: "an apple on a blue background"."""
    return f"{caption} on {article(colour)} {colour} background"


def with_tone(caption: str, sprite: Sprite) -> str:
    """The caption with the skin tone of the drawing, if it has one."""
    if sprite.tone is None:
        return caption
    joint = "," if " with " in sprite.phrase else " with"
    return f"{caption}{joint} {TONES[sprite.tone]} skin tone"
