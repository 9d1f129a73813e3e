"""The colours captions speak of: their values, the name of a given value, and how a sprite takes another one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# sRGB, 0 to 255. Every value within JITTER of an entry is named after it by `colour_names`; a test holds this.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (245, 135, 30),
    "yellow": (250, 215, 55),
    "green": (60, 165, 75),
    "turquoise": (45, 185, 178),
    "blue": (45, 100, 215),
    "purple": (135, 65, 190),
    "pink": (245, 140, 185),
    "brown": (125, 78, 45),
    "grey": (140, 140, 140),
    "black": (22, 22, 22),
    "white": (255, 255, 255),
}
JITTER = 10
NAMES = tuple(COLOURS)
# Colours nearer than this (Euclidean in sRGB, [0, 1]) are not put upon each other.
CONTRAST = 0.36
# Words by which a phrase already speaks of colour; such a phrase is neither recoloured nor named a second colour.
COLOUR_WORDS = frozenset(NAMES) | {
    "gray", "gold", "golden", "silver", "rainbow", "lime", "tangerine", "light", "dark", "rose", "blond", "violet",
    "peach", "cherry", "fire", "night", "flag", "rainy", "lemon",
}  # fmt: skip


@dataclass(frozen=True)
class Recolour:
    """HSV target of a recoloured sprite: hue in degrees, factors on saturation and value, share lifted to white."""

    hue: float
    saturation: float = 1.0
    value: float = 1.0
    lift: float = 0.0


RECOLOURS: dict[str, Recolour] = {
    "red": Recolour(0.0, 1.1),
    "orange": Recolour(27.0, 1.15, lift=0.5),
    "yellow": Recolour(51.0, 1.0, lift=0.55),
    "green": Recolour(130.0, 0.9),
    "turquoise": Recolour(177.0, 0.95, lift=0.15),
    "blue": Recolour(220.0, 1.0, lift=0.1),
    "purple": Recolour(277.0, 0.85),
    "pink": Recolour(335.0, 0.5, lift=0.5),
    "brown": Recolour(25.0, 0.85, 0.5),
    "grey": Recolour(0.0, 0.0, 0.6),
    "black": Recolour(0.0, 0.0, 0.15),
}


def hsv(rgb: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Hue in degrees [0, 360), saturation and value in [0, 1] of rgb (…, 3) in [0, 1]."""
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = high - low
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    safe = np.where(chroma > 0, chroma, 1)
    sector = np.where(
        high == red,
        np.mod((green - blue) / safe, 6),
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = np.where(chroma > 0, sector * 60, 0).astype(np.float32)
    saturation = (chroma / np.where(high > 0, high, 1)).astype(np.float32)
    return hue, saturation, high.astype(np.float32)


# Upper bound of each name's hue range in degrees; the last wraps to red.
_HUE_BOUNDS = (14.0, 40.0, 70.0, 164.0, 194.0, 252.0, 303.0, 343.0)
_HUE_NAMES = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "red")


def colour_names(rgb: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index into NAMES of the name a person would give each colour; rgb (…, 3) sRGB in [0, 1] -> (…)."""
    hue, saturation, value = hsv(rgb)
    index = {name: NAMES.index(name) for name in NAMES}
    by_hue = np.array([index[name] for name in _HUE_NAMES])
    name = by_hue[np.searchsorted(np.array(_HUE_BOUNDS), hue)]
    warm = (hue < 48) | (hue > 352)
    # Dark or dull orange is brown; dull yellow-green too. Pale red, and red leaning to magenta, is pink.
    name = np.where((hue >= 8) & (hue < 55) & (value < 0.68), index["brown"], name)
    name = np.where((hue >= 10) & (hue < 40) & (value < 0.78) & (saturation < 0.55), index["brown"], name)
    pale_red = ((hue < 12) | (hue > 303)) & (saturation < 0.6) & (value > 0.7)
    name = np.where(pale_red, index["pink"], name)
    chroma = saturation * value
    dull = (chroma < 0.12) | ((saturation < 0.16) & ~warm)
    name = np.where(dull & (value > 0.86), index["white"], name)
    name = np.where(dull & (value <= 0.86), index["grey"], name)
    return np.where((value < 0.2) | (dull & (value < 0.27)), index["black"], name)


def clear_colour(rgb: NDArray[np.float32]) -> str | None:
    """The name of a colour that nobody would dispute, or None: rgb (3,) sRGB in [0, 1].

    Values near the border of two names (amber, olive, raspberry) and dull or dark ones that pass for brown or grey
    have none.
    """
    hue, saturation, value = (float(part) for part in hsv(rgb))
    name = NAMES[int(colour_names(rgb))]
    if name in ("white", "black", "grey", "brown"):
        return name
    near = min(abs((hue - bound + 180) % 360 - 180) for bound in _HUE_BOUNDS)
    # Amber, between orange and yellow, is the widest of the disputed ranges.
    amber = 32 < hue < 46
    least_chroma, least_value = _CLEAR.get(name, (0.35, 0.4))
    return name if near > 4 and not amber and saturation * value > least_chroma and value > least_value else None


# Least saturation × value, and least value, at which a chromatic name is beyond dispute.
_CLEAR = {"red": (0.5, 0.6), "orange": (0.55, 0.85), "yellow": (0.5, 0.8), "pink": (0.2, 0.85)}


def says_colour(phrase: str) -> bool:
    """Whether the phrase already holds a colour word."""
    return any(word.strip(",") in COLOUR_WORDS for word in phrase.lower().replace("-", " ").split())


def differ(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two sRGB colours, 0 to 255, are far enough apart to be told from each other."""
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > (255 * CONTRAST) ** 2
