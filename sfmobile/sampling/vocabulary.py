"""What the built-in model learnt, and what of a prompt it never did: it draws something all the same."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pydantic import BaseModel

from sfmobile.files import read_model
from sfmobile.models import BUILT_IN, models_folder

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import Manifest

# The plan that says what its last stages were shown.
PLAN = "recipes/glyph-128/pictures.json"
COLOURS = (
    "red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "grey", "black", "white",
)  # fmt: skip
# Words around a thing that captions have.
_AROUND = frozenset({"a", "an", "the", "in", "on", "of", "with", "and", "style", "picture", "background"})
MOST_NAMED = 4


class _Plan(BaseModel):
    phrases: tuple[str, ...]
    styles: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """things: what its drawings are called. styles: how they are drawn. colours: of things and backgrounds."""

    things: tuple[str, ...]
    styles: tuple[str, ...]
    colours: tuple[str, ...]

    def strange(self, prompt: str) -> tuple[str, ...]:
        """What of a prompt the model has no name for, each once: words of none of its things, and where the prompt
        names no thing at all, whatever it names instead."""
        words = _words(prompt)
        known = {tuple(_words(thing)) for thing in self.things}
        longest = max(map(len, known))
        parts = {word for thing in known for word in thing}
        plain = {*_AROUND, *self.styles, *self.colours}
        unknown: list[str] = []
        partly: list[str] = []
        start = things = 0
        while start < len(words):
            length = next((n for n in range(longest, 0, -1) if tuple(words[start : start + n]) in known), 0)
            if length:
                things += 1
            elif words[start] in self.colours or (words[start] in parts and words[start] not in plain):
                partly.append(words[start])
            elif words[start] not in plain:
                unknown.append(words[start])
            start += length or 1
        named = [word for word in partly if word not in self.colours] or partly
        return tuple(dict.fromkeys(unknown if things else (*unknown, *named)))

    def nearest(self, word: str) -> tuple[str, ...]:
        """Things of which a word is a part, else those that are spelt most like it."""
        parts = tuple(thing for thing in self.things if word in _words(thing))
        return parts[:MOST_NAMED] or tuple(difflib.get_close_matches(word, self.things, n=2, cutoff=0.75))

    def note(self, prompt: str) -> str | None:
        """A sentence about what the model never learnt of a prompt; None if it learnt all of it."""
        strange = self.strange(prompt)
        if not strange:
            return None
        named = ", ".join(f"'{word}'" for word in strange)
        near = dict.fromkeys(thing for word in strange for thing in self.nearest(word))
        instead = f"it knows {', '.join(list(near)[:MOST_NAMED])}" if near else "`sfmobile models` lists what it knows"
        return (
            f"The built-in model never learnt {named} by that name and draws what it takes it for; {instead}, "
            f"{len(self.things)} things in all."
        )


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


@cache
def built_in_vocabulary() -> Vocabulary:
    """The built-in model's. Raises what `models_folder` raises."""
    plan = read_model(models_folder() / PLAN, _Plan, "the plan of the built-in model", "install sfmobile again")
    return Vocabulary(plan.phrases, plan.styles, COLOURS)


def vocabulary_of(manifest: Manifest) -> Vocabulary | None:
    """The vocabulary of a bundle's model, where it is the built-in one."""
    return built_in_vocabulary() if manifest.name == BUILT_IN else None
