from __future__ import annotations

import pytest

from sfmobile.train.data.artwork import STYLES
from sfmobile.train.data.wording import in_style, on_background, qualified


@pytest.mark.parametrize(
    ("phrase", "adjective", "expected"),
    [
        ("apple", "purple", "a purple apple"),
        ("car", "orange", "an orange car"),
        ("grapes", "tiny", "tiny grapes"),
        ("cooked rice", "yellow", "yellow cooked rice"),
    ],
)
def test_an_adjective_brings_its_own_article(phrase: str, adjective: str, expected: str):
    assert qualified(phrase, adjective) == expected


def test_backgrounds_take_the_article_of_their_colour():
    assert on_background("a cat", "orange") == "a cat on an orange background"
    assert on_background("a cat", "grey") == "a cat on a grey background"


@pytest.mark.parametrize("style", STYLES)
def test_every_wording_of_a_style_holds_its_word_and_the_caption(style: str):
    wordings = {in_style("an owl", style, chance) for chance in (0.0, 0.5, 0.9)}
    assert len(wordings) == 3 and all(style in wording and "an owl" in wording for wording in wordings)
