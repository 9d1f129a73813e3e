from __future__ import annotations

import pytest

from sfmobile.train.data.english import plural, with_article, with_inner_articles


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("x-ray picture", "an x-ray picture"),
        ("FREE button", "a FREE button"),
        ("SOS button", "an SOS button"),
        ("french fries", "french fries"),
        ("cooked rice", "cooked rice"),
        ("rhinoceros", "a rhinoceros"),
        ("people holding hands", "people holding hands"),
        ("woman lifting weights", "a woman lifting weights"),
        ("flag of Norway", "the flag of Norway"),
        ("Santa Claus", "Santa Claus"),
        ("bowl with a spoon", "a bowl with a spoon"),
    ],
)
def test_a_phrase_takes_the_article_it_has_in_a_sentence(phrase: str, expected: str):
    assert with_article(phrase) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("apple", "apples"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("fox", "foxes"),
        ("mouse", "mice"),
        ("fallen leaf", "fallen leaves"),
        ("cat with tears of joy", "cats with tears of joy"),
        ("magnifying glass tilted left", "magnifying glasses tilted left"),
        ("french fries", None),
        ("popcorn", None),
        ("nut and bolt", None),
        ("Statue of Liberty", None),
        ("1st place medal", None),
    ],
)
def test_a_plural_is_right_or_absent(phrase: str, expected: str | None):
    assert plural(phrase) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("cat with wry smile", "cat with a wry smile"),
        ("envelope with arrow", "envelope with an arrow"),
        ("sun behind small cloud", "sun behind a small cloud"),
        ("face with tears of joy", "face with tears of joy"),
        ("diamond with a dot", "diamond with a dot"),
        ("person in bed", "person in bed"),
        ("man in motorized wheelchair facing right", "man in a motorized wheelchair facing right"),
    ],
)
def test_nouns_inside_a_phrase_take_articles_too(phrase: str, expected: str):
    assert with_inner_articles(phrase) == expected
