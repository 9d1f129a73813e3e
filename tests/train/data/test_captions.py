from __future__ import annotations

import json

import pytest

from sfmobile.errors import ArtifactError
from sfmobile.train.data.captions import clean_tags, normalise, noun_phrase, read_concepts
from tests.train.data.conftest import members_of


@pytest.mark.parametrize(
    ("label", "subgroup", "expected"),
    [
        ("flag: Bosnia & Herzegovina", 98, "flag of Bosnia and Herzegovina"),
        ("keycap: 1", 94, "keycap button 1"),
        ("person: red hair", 23, "person with red hair"),
        ("man: bald", 23, "bald man"),
        ("woman: beard", 23, "woman with a beard"),
        ("family: adult, adult, child", 31, "family of an adult, an adult and a child"),
        ("kiss: woman, man", 30, "kiss between a woman and a man"),
        ("woman walking: facing right", 27, "woman walking facing right"),
        ("A button (blood type)", 95, "A button"),
        ("Japanese “reserved” button", 95, "Japanese reserved button"),
        ("three o’clock", 58, "clock showing three o'clock"),
        ("five-thirty", 58, "clock showing five thirty"),
        ("alarm clock", 58, "alarm clock"),
        ("Leo", 87, "Leo zodiac sign"),
        ("no smoking", 84, "no smoking sign"),
        ("automobile", 50, "car"),
        ("red apple", 42, "red apple"),
    ],
)
def test_labels_become_noun_phrases(label: str, subgroup: int, expected: str):
    assert noun_phrase(label, subgroup) == expected


def test_hexcodes_are_compared_without_variation_selector():
    assert normalise("2764-fe0f-200d-1f525") == "2764-200D-1F525"


def test_concepts_have_single_tones_and_no_components():
    concepts = read_concepts(members_of("captions"))
    assert "1F1E6" not in concepts
    assert [concepts[f"1F44B-1F3F{digit}"].tone for digit in "BCDEF"] == [1, 2, 3, 4, 5]
    assert concepts["1F44B-1F3FB"].base == "1F44B" and concepts["1F44B"].tone is None
    assert not any("-1F3FB-1F3FC" in code for code in concepts)


def test_tags_add_something_that_can_be_seen():
    assert clean_tags(["fruit", "apple", "lol", "10:30", "5", "big cat"], "red apple") == ("fruit", "big cat")


@pytest.mark.parametrize("data", [b"{}x", b'[{"label": "x", "group": 1}]', json.dumps({"a": 1}).encode()])
def test_another_file_in_its_place_is_named(data: bytes):
    with pytest.raises(ArtifactError, match=r"en/data.json of emojibase-data can't be read"):
        read_concepts({"en/data.json": data})
