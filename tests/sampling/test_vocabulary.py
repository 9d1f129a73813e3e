from __future__ import annotations

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.sampling.vocabulary import COLOURS, Vocabulary, built_in_vocabulary, vocabulary_of
from sfmobile.train.data.colours import NAMES


def test_it_is_the_plans_and_its_colours_the_datas() -> None:
    known = built_in_vocabulary()
    assert len(known.things) == 288 and known.styles == ("flat", "3d")
    assert COLOURS == NAMES


@pytest.mark.parametrize(
    "prompt",
    ["a red apple", "a yellow star on a blue background", "a smiling cat face", "a penguin, 3D style", "an octopus"],
)
def test_what_it_learnt_is_passed_in_silence(prompt: str) -> None:
    assert built_in_vocabulary().note(prompt) is None


@pytest.mark.parametrize(
    ("prompt", "strange", "near"),
    [
        ("a green tree", ("tree",), "evergreen tree"),
        ("a blue apple", ("apple",), "red apple"),
        ("an astronaut on a horse", ("astronaut",), "`sfmobile models`"),
        ("a turquoise", ("turquoise",), "`sfmobile models`"),
    ],
)
def test_what_it_never_learnt_is_named_with_what_is_near(prompt: str, strange: tuple[str, ...], near: str) -> None:
    known = built_in_vocabulary()
    assert known.strange(prompt) == strange
    assert near in (known.note(prompt) or "")


def test_the_longest_name_counts() -> None:
    known = Vocabulary(("cat", "cat face"), ("flat",), ("red",))
    assert known.strange("a cat face") == () and known.strange("a face") == ("face",)
    assert known.strange("a cat and a ship, ship") == ("ship",)


def test_other_models_have_none(tiny_bundle: Bundle) -> None:
    assert vocabulary_of(tiny_bundle.manifest) is None
    assert vocabulary_of(tiny_bundle.manifest.model_copy(update={"name": "glyph"})) is built_in_vocabulary()
