"""Which pairs the generator never sees, fixed by hash.

Three disjoint parts of the sprites:

- ``train``: what the generator is trained on.
- ``judge``: one style of every concept that has at least four, for the dual encoder of the metrics. The encoder
  sees every concept, each in one drawing that the generator never sees.
- ``held_out``: concept × style and tone × person pairs (about 5 %) that neither sees; the dual encoder's retrieval
  is measured on them, and prompts for them are the evaluation's held-out prompts.

Colour × object and background × object pairs are held out of the compositions in the same way: the object is seen, and
the colour is seen, never the two together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

TRAIN, JUDGE, HELD_OUT = "train", "judge", "held_out"
SPLITS = (TRAIN, JUDGE, HELD_OUT)
HELD_OUT_SHARE = 0.05
# A concept keeps at least this many styles for training whatever the hashes say.
MIN_TRAINING_STYLES = 2
JUDGE_MIN_STYLES = 4


def fraction(*parts: object) -> float:
    """A number in [0, 1) fixed by `parts` alone, the same on every machine and in every version of Python."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def style_splits(base: str, styles: Iterable[str]) -> Mapping[str, str]:
    """The part each style of one concept belongs to."""
    ranked = sorted(styles, key=lambda style: fraction("judge", base, style))
    splits = dict.fromkeys(ranked, TRAIN)
    if len(ranked) >= JUDGE_MIN_STYLES:
        splits[ranked[0]] = JUDGE
    for style in ranked:
        left = sum(split == TRAIN for split in splits.values())
        if (
            splits[style] == TRAIN
            and left > MIN_TRAINING_STYLES
            and fraction("style", base, style) < HELD_OUT_SHARE * 5 / 4
        ):
            splits[style] = HELD_OUT
    return splits


def holds_out_tone(base: str, tone: int | None) -> bool:
    """Whether this person or hand is never shown in this skin tone."""
    return tone is not None and fraction("tone", base, tone) < HELD_OUT_SHARE


def holds_out_colour(base: str, colour: str) -> bool:
    """Whether this object is never recoloured to this colour in training."""
    return fraction("colour", base, colour) < HELD_OUT_SHARE


def holds_out_background(base: str, colour: str) -> bool:
    """Whether this object never stands on a background of this colour in training. White is everyone's default."""
    return colour != "white" and fraction("background", base, colour) < HELD_OUT_SHARE


def holds_out_pair(left: str, right: str) -> bool:
    """Whether these two objects never stand together in training, in either order."""
    return fraction("pair", *sorted((left, right))) < HELD_OUT_SHARE
