"""Articles and plurals of the noun phrases that label the sprites: enough English for true captions."""

from __future__ import annotations

import re

# Words that end the head of a noun phrase: "bowl with spoon", "magnifying glass tilted left".
_POSTMODIFIERS = re.compile(
    r"\b(with|without|in|of|on|at|over|behind|under|showing|tilted|holding|fluttering|pointed|pointing|between|for"
    r"|crossing|wearing|exhaling|savoring|screaming|vomiting|blowing|shaking|on fire|from)\b"
)
# Nouns without an indefinite article and without a plural that is drawn as two of them.
_MASS = frozenset({
    "bread", "bacon", "butter", "salt", "garlic", "broccoli", "popcorn", "spaghetti", "sushi", "sake", "tofu",
    "oden", "fire", "fog", "ice", "rice", "soap", "yarn", "thread", "wood", "water", "coral", "hair", "money",
    "confetti", "food", "milk", "litter", "fondue", "chocolate", "bubbles", "sparkles",
})  # fmt: skip
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
    "snowman": "snowmen",
    "scarf": "scarves",
    "sheaf": "sheaves",
    "volcano": "volcanoes",
    "tornado": "tornadoes",
    "mosquito": "mosquitoes",
    "buffalo": "buffaloes",
    "jellyfish": "jellyfish",
    "blowfish": "blowfish",
    "squid": "squid",
}
_PLURAL_S = ("skis",)
_PERSONS = ("man", "woman", "person", "people", "men", "women", "face")
_A_DESPITE_VOWEL = re.compile(r"^(one|once|uni|eu|ewe|ukulele|use|utensil|u-)", re.IGNORECASE)
_AN_DESPITE_CONSONANT = re.compile(r"^(hour|honest|heir|x-|[8FHLMNRSX]\b|NG\b|SOS\b|1[18]\b)")


def head(phrase: str) -> str:
    """The phrase up to its first postmodifier: "bottle with popping cork" -> "bottle"."""
    found = _POSTMODIFIERS.search(phrase)
    front = phrase[: found.start()].rstrip(" ,") if found and found.start() else phrase
    words = front.split()
    # "woman lifting weights": the participle after a person ends the head too.
    if words[0] in _PERSONS:
        cut = next((n for n, word in enumerate(words) if n and word.endswith("ing")), len(words))
        return " ".join(words[:cut])
    return front


def is_plural(phrase: str) -> bool:
    """Whether the head noun is already plural: "french fries", "people holding hands"."""
    words = head(phrase).split()
    if words[0] in ("people", "men", "women", "two"):
        return True
    last = words[-1].lower()
    if last in _PLURAL_S:
        return True
    return last.endswith("s") and not last.endswith(("ss", "us", "is", "'s", "rhinoceros"))


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
    """The indefinite article, by sound as far as spelling tells it."""
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
        or "man's " in front
        or phrase[0].isdigit()
    ):
        return None
    words = front.split()
    words[-1] = _plural_noun(words[-1])
    return " ".join(words) + phrase[len(front) :]


_INNER = re.compile(r"\b(with|without|wearing|in|behind|into) (.+)$")
# Not articles but set phrases: "busts in silhouette", "person in bed", "litter in bin sign".
_SET_PHRASES = re.compile(r"\b((with|in|wearing|behind) (a|an|the)|in (silhouette|bed|bin|wind|fog|fear))\b")
_UNCOUNTED = frozenset({
    "sweat", "steam", "lightning", "rain", "snow", "yen", "joy", "hair", "flash", "polish", "sand", "eyes",
    "fingers", "splayed",
})  # fmt: skip


def with_inner_articles(phrase: str) -> str:
    """The phrase with articles inside: "cat with wry smile" -> "cat with a wry smile", "sun behind cloud" likewise."""
    found = _INNER.search(phrase)
    if found is None or _SET_PHRASES.search(phrase):
        return phrase
    inner = found.group(2)
    front = head(inner).split(" and ")[0].split()
    if front[-1] in _UNCOUNTED or is_plural(inner) or is_mass(inner) or inner[0].isdigit():
        return phrase
    return f"{phrase[: found.start(2)]}{article(inner)} {inner}"


def _plural_noun(noun: str) -> str:
    if noun.lower() in _IRREGULAR:
        return _IRREGULAR[noun.lower()]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
