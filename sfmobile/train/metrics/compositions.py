"""Exact checks of composed prompts by image processing: background colour, object colour, count, side.

No network is asked: what a prompt says of colour and place is read off the pixels. The checks err now and then on true
pictures too (a sprite of three separate parts counts as three), so their accuracy on real compositions is always
reported beside a generator's figure.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfmobile.train.data.colours import NAMES, colour_names

Picture = NDArray[np.floating]  # (3, H, W) in [-1, 1]
Mask = NDArray[np.bool_]

# Distance (Euclidean, sRGB in [0, 1]) from which a pixel is no longer background.
_FOREGROUND = 0.16
# Share of the picture's side: bits smaller than this squared are noise.
_SPECK = 0.03
# Copies of one drawing have about equal areas; pieces less equal than this are parts of one object.
_EQUAL_AREAS = 0.55


def _rgb(picture: Picture) -> NDArray[np.float32]:
    return ((np.asarray(picture, np.float32).transpose(1, 2, 0) + 1) / 2).clip(0, 1)


def background_rgb(picture: Picture) -> NDArray[np.float32]:
    """Median colour of the picture's outermost pixels, sRGB in [0, 1], (3,)."""
    rgb = _rgb(picture)
    width = max(1, rgb.shape[0] // 48)
    frame = [rgb[:width], rgb[-width:], rgb[:, :width].swapaxes(0, 1), rgb[:, -width:].swapaxes(0, 1)]
    colour: NDArray[np.float32] = np.median(np.concatenate([part.reshape(-1, 3) for part in frame]), axis=0)
    return colour


def background_name(picture: Picture) -> str:
    """Name of the background's colour."""
    return NAMES[int(colour_names(background_rgb(picture)[None])[0])]


def foreground(picture: Picture) -> Mask:
    """Pixels (H, W) that differ from the background, specks removed, holes filled."""
    from scipy import ndimage

    rgb = _rgb(picture)
    mask = np.linalg.norm(rgb - background_rgb(picture), axis=-1) > _FOREGROUND
    labels, count = ndimage.label(ndimage.binary_fill_holes(mask))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    large = areas >= (_SPECK * rgb.shape[0]) ** 2
    large[0] = False
    kept: Mask = large[labels]
    return kept


def colour_shares(picture: Picture, mask: Mask) -> NDArray[np.float64]:
    """Share of each colour of NAMES among the masked pixels, (12,); zeros if the mask is empty.

    One pixel at the rim is left out: it blends with the background.
    """
    from scipy import ndimage

    inner = ndimage.binary_erosion(mask)
    inner = inner if inner.sum() > 20 else mask
    if not inner.any():
        return np.zeros(len(NAMES))
    return np.bincount(colour_names(_rgb(picture)[inner]), minlength=len(NAMES)) / inner.sum()


def dominant_colour(picture: Picture) -> str | None:
    """Name of the object's commonest colour, None where there is no object."""
    shares = colour_shares(picture, foreground(picture))
    return NAMES[int(shares.argmax())] if shares.any() else None


def pieces(mask: Mask) -> list[Mask]:
    """The objects in a mask: cut along empty rows and columns into pieces of about equal area.

    Of all ways to group the parts by straight empty cuts, the one with most pieces is taken among those whose areas
    are alike; parts that are unlike (a face and its tear) belong to one object.
    """
    found = [part for part in _cuts(mask) if _alike(part)]
    return max(found, key=len) if found else []


def _alike(parts: Sequence[Mask]) -> bool:
    areas = [int(part.sum()) for part in parts]
    return min(areas) >= _EQUAL_AREAS * max(areas)


def _cuts(mask: Mask, depth: int = 2) -> list[list[Mask]]:
    """Ways to see a mask as pieces: as one, or cut once in two and each half again."""
    if not mask.any():
        return []
    ways = [[mask]]
    if depth == 0:
        return ways
    for axis in (0, 1):
        for first, second in _splits(mask, axis):
            ways += [a + b for a in _cuts(first, depth - 1) for b in _cuts(second, depth - 1)]
    return ways


def _splits(mask: Mask, axis: int) -> list[tuple[Mask, Mask]]:
    """Both sides of every empty line across `axis` that has something on both sides."""
    filled: Mask = np.any(mask, axis=1 - axis)
    inside = np.flatnonzero(filled)
    gaps = np.flatnonzero(np.diff(inside) > 1)
    result = []
    for gap in gaps:
        edge = int(inside[gap]) + 1
        side = np.arange(len(filled)) < edge
        first = mask & (side[:, None] if axis == 0 else side[None, :])
        result.append((first, mask & ~first))
    return result


def count_objects(picture: Picture) -> int:
    """How many like objects stand in the picture."""
    return len(pieces(foreground(picture)))


_AXES = {"left": 1, "right": 1, "above": 0, "below": 0}
_FIRST_COMES_FIRST = ("left", "above")


def middle_gap(mask: Mask, axis: int) -> tuple[int, int] | None:
    """The longest run of empty lines across `axis` (0 rows, 1 columns) between two parts, as (first, behind last).

    Only runs that touch the middle 40 % of the picture count; None if there is none.
    """
    filled: Mask = np.any(mask, axis=1 - axis)
    inside = np.flatnonzero(filled)
    low, high = 0.3 * len(filled), 0.7 * len(filled)
    runs = [(int(a) + 1, int(b)) for a, b in itertools.pairwise(inside) if b - a > 1 and a + 1 < high and b > low]
    return max(runs, key=lambda run: run[1] - run[0], default=None)


def side_is_right(picture: Picture, relation: str, first: NDArray[np.floating], second: NDArray[np.floating]) -> bool:
    """Whether two objects stand apart along the relation's axis, in the relation's order.

    first, second: `colour_shares` (12,) that the two objects are known by. "left": the first is left of the second.
    """
    axis = _AXES[relation]
    mask = foreground(picture)
    along, across = middle_gap(mask, axis), middle_gap(mask, 1 - axis)
    if along is None or (across is not None and across[1] - across[0] >= along[1] - along[0]):
        return False
    before = np.arange(mask.shape[axis]) < along[0]
    before_mask = mask & (before[:, None] if axis == 0 else before[None, :])
    near, far = colour_shares(picture, before_mask), colour_shares(picture, mask & ~before_mask)
    if relation not in _FIRST_COMES_FIRST:
        near, far = far, near
    as_told = np.abs(near - first).sum() + np.abs(far - second).sum()
    swapped = np.abs(near - second).sum() + np.abs(far - first).sum()
    return bool(as_told < swapped)


class ColourReferences:
    """What colours each concept has, over all its drawings: the means by which two objects are told apart.

    pixels: uint8 (N, 4, S, S), colour multiplied by alpha; bases: the N drawings' concepts.
    """

    # L1 distance of colour shares (0 to 2) above which two concepts are told apart by colour.
    DECIDABLE = 0.8

    def __init__(self, pixels: NDArray[np.uint8], bases: Sequence[str]) -> None:
        self._pixels = pixels
        self._rows: dict[str, list[int]] = {}
        for row, base in enumerate(bases):
            self._rows.setdefault(base, []).append(row)
        self._shares: dict[str, NDArray[np.float64]] = {}

    def shares(self, base: str) -> NDArray[np.float64]:
        """Mean colour shares (12,) of a concept's drawings."""
        if base not in self._shares:
            drawings = [self._of_drawing(self._pixels[row]) for row in self._rows[base][:8]]
            self._shares[base] = np.mean(drawings, axis=0)
        return self._shares[base]

    def decidable(self, one: str, other: str) -> bool:
        """Whether the colours of two concepts differ enough to say which is which."""
        return bool(np.abs(self.shares(one) - self.shares(other)).sum() > self.DECIDABLE)

    @staticmethod
    def _of_drawing(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        alpha = pixels[3].astype(np.float32) / 255
        opaque = alpha > 0.5
        rgb = (pixels[:3, opaque].astype(np.float32) / 255 / alpha[opaque]).clip(0, 1).T
        return np.bincount(colour_names(rgb), minlength=len(NAMES)) / max(len(rgb), 1)


@dataclass(frozen=True)
class Check:
    """Right answers among those that could be checked."""

    right: int
    checked: int

    @property
    def share(self) -> float:
        """Right of checked; NaN if nothing was checked."""
        return self.right / self.checked if self.checked else float("nan")


CHECKS = ("background", "object colour", "count", "side")


def check_compositions(
    pictures: NDArray[np.floating], attributes: Sequence[Mapping[str, Any]], references: ColourReferences
) -> dict[str, Check]:
    """Check each picture (N, 3, H, W) in [-1, 1] against what its prompt says, as far as it says anything.

    attributes: as the planner of compositions gives them. A pair whose colours can't tell it apart is not checked.
    """
    results: dict[str, list[bool]] = {name: [] for name in CHECKS}
    for picture, says in zip(pictures, attributes, strict=True):
        if says["background"] is not None:
            results["background"].append(background_name(picture) == says["background"])
        colour = says["recolour"] or says["colour"]
        if colour is not None:
            results["object colour"].append(dominant_colour(picture) == colour)
        if says["kind"] == "count":
            results["count"].append(count_objects(picture) == says["count"])
        if says["relation"] is not None:
            one, other = says["concepts"]
            if references.decidable(one, other):
                shares = references.shares(one), references.shares(other)
                results["side"].append(side_is_right(picture, says["relation"], *shares))
    return {name: Check(sum(answers), len(answers)) for name, answers in results.items()}
