from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sfmobile.train.data.artwork import STYLES
from sfmobile.train.data.captions import TONES
from sfmobile.train.data.colours import COLOURS
from sfmobile.train.data.split import (
    HELD_OUT,
    JUDGE,
    MIN_TRAINING_STYLES,
    TRAIN,
    fraction,
    holds_out_background,
    holds_out_colour,
    holds_out_pair,
    holds_out_tone,
    style_splits,
)

CONCEPTS = [f"{number:X}" for number in range(0x1F300, 0x1F300 + 2000)]


def test_the_split_never_moves():
    assert fraction("colour", "1F34E", "blue") == 0.14439886214164446
    assert style_splits("1F436", STYLES) == style_splits("1F436", reversed(STYLES))


def test_shares_are_what_the_split_says():
    counts = Counter(split for base in CONCEPTS for split in style_splits(base, STYLES).values())
    assert counts[JUDGE] == len(CONCEPTS)
    assert 0.04 < counts[HELD_OUT] / counts.total() < 0.06
    for held_out, others in ((holds_out_colour, COLOURS), (holds_out_tone, TONES), (holds_out_pair, CONCEPTS[:10])):
        share = sum(held_out(base, other) for base in CONCEPTS for other in others) / len(CONCEPTS) / len(others)
        assert 0.04 < share < 0.06


@given(st.text(), st.lists(st.sampled_from(STYLES), unique=True))
def test_every_concept_keeps_styles_to_learn_from(base: str, styles: list[str]):
    splits = style_splits(base, styles)
    assert set(splits) == set(styles)
    assert sum(split == TRAIN for split in splits.values()) >= min(len(styles), MIN_TRAINING_STYLES)


def test_a_pair_is_held_out_in_both_orders():
    assert all(holds_out_pair(a, b) == holds_out_pair(b, a) for a in CONCEPTS[:40] for b in CONCEPTS[:40])


def test_white_backgrounds_and_untoned_people_are_never_held_out():
    assert not any(holds_out_background(base, "white") or holds_out_tone(base, None) for base in CONCEPTS)
