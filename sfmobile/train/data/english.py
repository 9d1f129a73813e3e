"""Articles and plurals of the noun phrases that label the sprites: enough English for true captions."""

from __future__ import annotations

import re

# Words that end the head of a noun phrase: "bowl with spoon", "magnifying glass tilted left".
_POSTMODIFIERS = re.compile(
    r"\b(with|without|in|of|on|at|over|behind|under|showing|tilted|holding|fluttering|pointed|pointing|between|for"
    r"|crossing|wearing|exhaling|savoring|screaming|vomiting|blowing|shaking|on fire|from)\b"
)
# Nouns without an indefinite article and without a plural that is drawn as two of them.
_MASS = frozenset(
    "bread bacon butter salt garlic broccoli popcorn spaghetti sushi sake tofu oden fire fog ice rice luggage soap yarn "
    "thread wood water coral hair lipstick money confetti dna food milk sand cinema radioactive wireless shrimp fish "
    "playground music equipment litter baggage fondue chocolate gymnastics foggy camping ceremony bubbles sparkles".split()
)
_NO_ARTICLE = ("Santa ", "Mrs. ", "Mx ", "Mount ", "Saturn")
_DEFINITE = ("Statue of Liberty", "Tokyo tower", "flag of ", "Milky Way", "number ", "Kaaba", "zodiac sign ")
_IRREGULAR = {
    "mouse": "mice",
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "leaf": "leaves",
    "knife": "knives",
    "wolf": "wolves",
    "loaf": "loaves",
    "ox": "oxen",
    "sheep": "sheep",
    "deer": "deer",
    "bison": "bison",
    "moose": "moose",
    "cactus": "cacti",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "die": "dice",
}
_A_DESPITE_VOWEL = re.compile(r"^(one|once|uni|eu|ukulele|use|utensil|u-)", re.IGNORECASE)
_AN_DESPITE_CONSONANT = re.compile(r"^(hour|honest|heir|x-|[8FHLMNRSX]\b|[FHLMNRSX][A-Z]|1[18]\b)")


def head(phrase: str) -> str:
    """The phrase up to its first postmodifier: "bottle with popping cork" -> "bottle"."""
    found = _POSTMODIFIERS.search(phrase)
    return phrase[: found.start()].rstrip(" ,") if found and found.start() else phrase


def is_plural(phrase: str) -> bool:
    """Whether the head noun is already plural: "french fries", "people holding hands"."""
    words = head(phrase).split()
    if words[0] in ("people", "men", "women", "two", "hundred") or " and " in head(phrase) and words[0] == "hammer":
        return words[0] != "hammer"
    last = words[-1].lower()
    if last in ("scissors", "jeans", "glasses", "people", "feet", "dice", "octopus", "cactus"):
        return last not in ("octopus", "cactus")
    return last.endswith("s") and not last.endswith(("ss", "us", "is", "'s", "bus", "lens", "canvas"))


def is_mass(phrase: str) -> bool:
    """Whether the head noun takes no indefinite article: "cooked rice"."""
    return head(phrase).split()[-1].lower() in _MASS


def with_article(phrase: str) -> str:
    """The phrase as it stands in a sentence: "an apple", "french fries", "the flag of Norway"."""
    if phrase.startswith(_NO_ARTICLE) or is_plural(phrase) or is_mass(phrase):
        return phrase
    if phrase.startswith(_DEFINITE):
        return f"the {phrase}"
    return f"{article(phrase)} {phrase}"


def article(phrase: str) -> str:
    """"a" or "an", by sound as far as spelling tells it."""
    if _AN_DESPITE_CONSONANT.match(phrase):
        return "an"
    return "an" if phrase[0].lower() in "aeiou" and not _A_DESPITE_VOWEL.match(phrase) else "a"


def plural(phrase: str) -> str | None:
    """The plural ("bottles with popping cork"), or None where the phrase has none that is sure to be right."""
    front = head(phrase)
    if (
        is_plural(phrase)
        or is_mass(phrase)
        or phrase.startswith(_NO_ARTICLE + _DEFINITE)
        or " and " in front
        or "," in front
        or phrase[0].isdigit()
    ):
        return None
    words = front.split()
    words[-1] = _plural_noun(words[-1])
    return " ".join(words) + phrase[len(front) :]


def _plural_noun(noun: str) -> str:
    if noun.lower() in _IRREGULAR:
        return _IRREGULAR[noun.lower()]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
