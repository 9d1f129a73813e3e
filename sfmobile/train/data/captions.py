"""Concepts from emojibase's English data: a noun phrase, tags, a group and skin-tone variants for every drawing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sfmobile.errors import ArtifactError
from sfmobile.train.data.english import with_inner_articles

GROUPS = {
    0: "smileys",
    1: "people",
    3: "nature",
    4: "food",
    5: "travel",
    6: "activities",
    7: "objects",
    8: "symbols",
    9: "flags",
}
TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}
# Subgroup numbers of emojibase's hierarchy that need a word more than the label says.
_ZODIAC, _KEYCAP, _WARNING, _ALPHANUM, _TIME, _COUNTRY_FLAG = 87, 94, 84, 95, 58, 98

# Labels that don't name what is drawn, or not as a noun phrase a person would type.
_NAMED = {
    "automobile": "car",
    "oncoming automobile": "oncoming car",
    "sport utility vehicle": "SUV car",
    "hot beverage": "cup of hot coffee",
    "high voltage": "lightning bolt",
    "collision": "explosion",
    "dashing away": "puff of wind",
    "hundred points": "red number 100",
    "ZZZ": "ZZZ sleeping sign",
    "dizzy": "dizzy star",
    "kiss": "couple kissing",
    "breast-feeding": "woman breast-feeding a baby",
    "locked": "closed padlock",
    "unlocked": "open padlock",
    "locked with pen": "closed padlock with a pen",
    "locked with key": "closed padlock with a key",
    "warning": "warning sign",
    "prohibited": "prohibited sign",
    "radioactive": "radioactive sign",
    "biohazard": "biohazard sign",
    "wireless": "wireless sign",
    "copyright": "copyright sign",
    "registered": "registered sign",
    "information": "information sign",
    "multiply": "multiplication sign",
    "plus": "plus sign",
    "minus": "minus sign",
    "divide": "division sign",
    "infinity": "infinity sign",
    "om": "om symbol",
    "khanda": "khanda symbol",
    "yin yang": "yin yang symbol",
    "cinema": "cinema sign",
    "restroom": "restroom sign",
    "men’s room": "men's room sign",
    "women’s room": "women's room sign",
    "water closet": "WC sign",
    "customs": "customs sign",
    "passport control": "passport control sign",
    "baggage claim": "baggage claim sign",
    "left luggage": "left luggage sign",
    "potable water": "drinking water sign",
    "non-potable water": "no drinking water sign",
    "vibration mode": "phone vibration mode sign",
    "mobile phone off": "mobile phone off sign",
    "children crossing": "children crossing sign",
    "construction": "construction barrier",
    "building construction": "building under construction",
    "wedding": "wedding chapel",
    "camping": "campsite with a tent",
    "foggy": "bridge in fog",
    "milky way": "night sky with the milky way",
    "landslide": "landslide on a mountain",
    "sunrise": "sunrise over water",
    "sunset": "sunset over buildings",
    "motorway": "motorway road",
    "light rail": "light rail train",
    "horse racing": "jockey on a racing horse",
    "tennis": "tennis racket and ball",
    "bowling": "bowling ball and pins",
    "ping pong": "ping pong paddle and ball",
    "badminton": "badminton racket and shuttlecock",
    "field hockey": "field hockey stick and ball",
    "ice hockey": "ice hockey stick and puck",
    "lacrosse": "lacrosse stick and ball",
    "cricket game": "cricket bat and ball",
    "cricket": "cricket insect",
    "performing arts": "theatre masks",
    "moon viewing ceremony": "moon viewing scene",
    "mate": "mate drink",
    "ice": "ice cube",
    "cooking": "frying pan with an egg",
    "mount fuji": "Mount Fuji",
    "kaaba": "Kaaba",
    "dna": "DNA strand",
    "x-ray": "x-ray picture",
    "hamsa": "hamsa hand",
    "fire": "fire flame",
    "coral": "coral branch",
    "shrimp": "pink shrimp",
    "fly": "fly insect",
    "seal": "seal animal",
    "pick": "pickaxe",
    "label": "tag label",
    "package": "cardboard package",
    "hole": "black hole in the ground",
    "joker": "joker playing card",
    "soap": "bar of soap",
    "bread": "loaf of bread",
    "wood": "pile of wood",
    "yarn": "ball of yarn",
    "thread": "spool of thread",
    "luggage": "suitcase",
    "rolling on the floor laughing": "laughing face rolling on the floor",
    "star-struck": "star-struck face",
    "exploding head": "exploding head face",
    "head shaking horizontally": "face shaking horizontally",
    "head shaking vertically": "face nodding vertically",
    "hourglass done": "hourglass",
    "hourglass not done": "hourglass with flowing sand",
    "page facing up": "page of paper",
    "chart increasing": "increasing line chart",
    "chart decreasing": "decreasing line chart",
    "chart increasing with yen": "increasing line chart with yen",
    "level slider": "level slider knob",
    "speaker low volume": "quiet speaker",
    "speaker medium volume": "speaker with a sound wave",
    "speaker high volume": "loud speaker",
    "meat on bone": "piece of meat on a bone",
    "umbrella on ground": "beach umbrella on the ground",
    "face savoring food": "face licking lips",
    "place of worship": "place of worship sign",
    "heart exclamation": "heart exclamation mark",
    "station": "train station",
    "metro": "metro train",
    "bank": "bank building",
    "link": "chain link",
    "memo": "memo with a pencil",
    "mechanical arm": "robot arm",
    "mechanical leg": "robot leg",
    "face with head-bandage": "face with a head bandage",
    "eye in speech bubble": "speech bubble with an eye",
    "flag in hole": "golf flag in a hole",
    "person in suit levitating": "man in a suit levitating",
    "thumbs up": "thumbs-up hand",
    "thumbs down": "thumbs-down hand",
    "selfie": "hand taking a selfie",
    "nail polish": "hand with nail polish",
    "vulcan salute": "vulcan salute hand",
    "index pointing up": "index finger pointing up",
    "index pointing at the viewer": "index finger pointing at the viewer",
    "flexed biceps": "flexed biceps arm",
}


@dataclass(frozen=True)
class Concept:
    """One drawing's meaning. `base` is the hexcode without skin tone, `tone` 1 (light) to 5 (dark) or None."""

    hexcode: str
    base: str
    phrase: str
    tags: tuple[str, ...]
    group: str
    subgroup: int
    tone: int | None


def normalise(hexcode: str) -> str:
    """Upper case without the emoji variation selector, which sources write or leave out at will."""
    return "-".join(part for part in hexcode.upper().replace("_", "-").split("-") if part != "FE0F")


def noun_phrase(label: str, subgroup: int) -> str:
    """A label of the data as a noun phrase without article: "flag: Norway" -> "flag of Norway"."""
    if label in _NAMED:
        return _NAMED[label]
    text = label.replace("’", "'").replace("“", "").replace("”", "").replace(" & ", " and ")
    text = re.sub(r"\s*\(.*?\)", "", text)
    if text.startswith("flag: "):
        country = text.removeprefix("flag: ")
        return f"flag of {country}"
    if text.startswith("keycap: "):
        return f"keycap button {text.removeprefix('keycap: ')}"
    if subgroup == _ZODIAC:
        return f"{text} zodiac sign"
    if subgroup == _TIME and ("o'clock" in text or text.endswith("-thirty")):
        return f"clock showing {text.replace('-', ' ')}"
    if subgroup == _WARNING and text.startswith("no "):
        return f"{text} sign"
    if text.startswith("input "):
        return f"{text} button"
    if ": " in text:
        return _with_detail(*text.split(": ", 1))
    return text


def _with_detail(what: str, detail: str) -> str:
    """Labels such as "person: red hair", "family: man, boy", "kiss: woman, man" or "man walking: facing right"."""
    if what in ("family", "kiss", "couple with heart"):
        people = detail.split(", ")
        listed = ", a ".join(people[:-1]) + f" and a {people[-1]}"
        noun = {"family": "family of", "kiss": "kiss between", "couple with heart": "couple with a heart,"}[what]
        return f"{noun} a {listed}".replace("a adult", "an adult")
    if detail == "bald":
        return f"bald {what}"
    if detail == "beard":
        return f"{what} with a beard"
    if detail == "facing right":
        return f"{what} facing right"
    return f"{what} with {detail}"


def read_concepts(members: Mapping[str, bytes]) -> dict[str, Concept]:
    """All captioned concepts by normalised hexcode, from emojibase's `en/data.json`.

    Left out: regional indicators and components (bare skin tones, hair), which name no drawing of their own, and
    the couples with two tones.

    Raises:
        ArtifactError: the file isn't there or isn't emojibase's.
    """
    try:
        entries = json.loads(members["en/data.json"])
        concepts: dict[str, Concept] = {}
        for entry in entries:
            group = GROUPS.get(entry.get("group", -1))
            if group is None:
                continue
            base = normalise(entry["hexcode"])
            phrase = with_inner_articles(noun_phrase(entry["label"], entry["subgroup"]))
            tags = clean_tags(entry.get("tags", []), phrase)
            concepts[base] = Concept(base, base, phrase, tags, group, entry["subgroup"], None)
            for skin in entry.get("skins", []):
                if isinstance(skin["tone"], int):
                    hexcode = normalise(skin["hexcode"])
                    concepts[hexcode] = Concept(hexcode, base, phrase, tags, group, entry["subgroup"], skin["tone"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"en/data.json of emojibase-data can't be read ({error!r}): expected a list of entries with hexcode, "
            f"label, group and subgroup; fetch the package again"
        ) from error
    return concepts


# Tags that say what a sender means by the drawing, not what is seen in it.
_CHATTER = frozenset(
    [
        "lol",
        "haha",
        "omg",
        "wow",
        "yolo",
        "smh",
        "ily",
        "ttyl",
        "ttfn",
        "cya",
        "gtg",
        "brb",
        "omw",
        "rofl",
        "lmao",
        "bff",
        "bae",
        "woah",
        "whoa",
        "yay",
        "meh",
        "ugh",
        "hmm",
        "awk",
        "awww",
        "ikr",
        "tbh",
        "pissed",
        "drunk",
        "sex",
        "lust",
        "horny",
        "cute",
        "bro",
        "dude",
    ]
)


def clean_tags(tags: list[str], phrase: str) -> tuple[str, ...]:
    """Tags worth adding to a caption: words of letters that the phrase doesn't hold already, without chat slang."""
    return tuple(
        tag
        for tag in tags
        if re.fullmatch(r"[a-z][a-z -]{2,}", tag) and tag not in _CHATTER and tag not in phrase.lower()
    )
