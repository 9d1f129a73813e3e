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
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfmobile.train.data.colours import NAMES, colour_names

Picture = NDArray[np.floating]  # (3, H, W) in [-1, 1]
Mask = NDArray[np.bool_]

# Distance (Euclidean, sRGB in [0, 1]) from which a pixel is no longer background.
_FOREGROUND = 0.16
# Copies of one drawing have about equal areas; pieces less equal than this are parts of one object.
_EQUAL_AREAS = 0.55
# Only so many gaps a direction are tried, or a picture of noise would have thousands of ways to be cut.
_WIDEST_GAPS = 4


def _rgb(picture: Picture) -> NDArray[np.float32]:
    return ((np.asarray(picture, np.float32).transpose(1, 2, 0) + 1) / 2).clip(0, 1)


def background_rgb(pictures: Tensor) -> Tensor:
    """Median colour of each picture's outermost pixels, sRGB in [0, 1]: (N, 3, H, W) in [-1, 1] -> (N, 3)."""
    rgb = ((pictures.float() + 1) / 2).clamp(0, 1)
    width = max(1, rgb.shape[-1] // 48)
    frame = [rgb[..., :width, :], rgb[..., -width:, :], rgb[..., :width], rgb[..., -width:]]
    return torch.cat([part.flatten(2) for part in frame], dim=2).median(dim=2).values


def background_names(pictures: Tensor) -> list[str]:
    """Name of each picture's background colour."""
    return [NAMES[int(index)] for index in colour_names(background_rgb(pictures).cpu().numpy())]


def foregrounds(pictures: Tensor) -> Tensor:
    """Pixels that differ from the background, holes filled, without specks too small to hold 3 × 3 pixels.

    pictures (N, 3, H, W) in [-1, 1] -> boolean (N, H, W), on the pictures' device.
    """
    rgb = ((pictures.float() + 1) / 2).clamp(0, 1)
    mask = (rgb - background_rgb(pictures)[:, :, None, None]).norm(dim=1) > _FOREGROUND
    border = torch.ones_like(mask)
    border[:, 1:-1, 1:-1] = False
    filled = ~_reconstructed(border & ~mask, ~mask)
    return _reconstructed(_eroded(_eroded(filled, 1), 2), filled)


def _grown(mask: Tensor, axis: int) -> Tensor:
    """Masks (N, H, W) grown by one pixel to both sides along an axis."""
    grown = mask.clone()
    size = mask.shape[axis]
    grown.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
    grown.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
    return grown


def _eroded(mask: Tensor, axis: int) -> Tensor:
    """Masks shrunk by one pixel from both sides along an axis; what is beyond the picture counts as background."""
    kept = ~_grown(~mask, axis)
    kept.select(axis, 0).fill_(False)
    kept.select(axis, -1).fill_(False)
    return kept


def _reconstructed(seed: Tensor, within: Tensor) -> Tensor:
    """The connected parts (4 neighbours) of `within` that hold a pixel of `seed`."""
    while True:
        grown = _grown(_grown(seed, 1) & within, 2) & within
        if torch.equal(grown, seed):
            return grown
        seed = grown


def colour_shares(picture: Picture, mask: Mask) -> NDArray[np.float64]:
    """Share of each colour of NAMES among the masked pixels, (12,); zeros if the mask is empty.

    One pixel at the rim is left out: it blends with the background.
    """
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    inner = inner if inner.sum() > 20 else mask
    if not inner.any():
        return np.zeros(len(NAMES))
    return np.bincount(colour_names(_rgb(picture)[inner]), minlength=len(NAMES)) / inner.sum()


def dominant_colour(picture: Picture, mask: Mask) -> str | None:
    """Name of the object's commonest colour, None where there is no object."""
    shares = colour_shares(picture, mask)
    return NAMES[int(shares.argmax())] if shares.any() else None


def count_pieces(mask: Mask) -> int:
    """How many like objects a mask holds: it is cut along empty rows and columns into parts of about equal area.

    Of all ways to cut it once in two and each half once more, the one with most parts is taken among those whose areas
    are alike; parts that are unlike (a face and its tear) belong to one object.
    """
    if not mask.any():
        return 0
    return max(len(areas) for areas in _cut_areas(mask, depth=2) if min(areas) >= _EQUAL_AREAS * max(areas))


def _cut_areas(mask: Mask, depth: int) -> list[tuple[int, ...]]:
    """Areas of the parts, for every way to cut a mask at most `depth` times over; uncut first."""
    ways: list[tuple[int, ...]] = [(int(np.count_nonzero(mask)),)]
    if depth == 0:
        return ways
    for axis in (0, 1):
        for first, second in _splits(mask, axis):
            of_second = _cut_areas(second, depth - 1)
            ways += [a + b for a in _cut_areas(first, depth - 1) for b in of_second]
    return ways


def _splits(mask: Mask, axis: int) -> list[tuple[Mask, Mask]]:
    """Both sides of the widest empty runs of lines across `axis` that have something on both sides."""
    filled: Mask = np.any(mask, axis=1 - axis)
    inside = np.flatnonzero(filled)
    widths = np.diff(inside)
    gaps = [int(gap) for gap in np.argsort(-widths, kind="stable")[:_WIDEST_GAPS] if widths[gap] > 1]
    result = []
    for gap in gaps:
        side = np.arange(len(filled)) <= inside[gap]
        first = mask & (side[:, None] if axis == 0 else side[None, :])
        result.append((first, mask & ~first))
    return result


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


def side_is_right(
    picture: Picture, mask: Mask, relation: str, first: NDArray[np.floating], second: NDArray[np.floating]
) -> bool:
    """Whether two objects stand apart along the relation's axis, in the relation's order.

    first, second: `colour_shares` (12,) that the two objects are known by. "left": the first is left of the second.
    """
    axis = _AXES[relation]
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
    pictures: Tensor, attributes: Sequence[Mapping[str, Any]], references: ColourReferences
) -> dict[str, Check]:
    """Check each picture (N, 3, H, W) in [-1, 1] against what its prompt says, as far as it says anything.

    attributes: as the composer of compositions gives them. A pair whose colours can't tell it apart is not checked.
    The masks are made on the pictures' device.
    """
    results: dict[str, list[bool]] = {name: [] for name in CHECKS}
    backgrounds, masks = background_names(pictures), foregrounds(pictures).cpu().numpy()
    for background, mask, picture, says in zip(backgrounds, masks, pictures.cpu().numpy(), attributes, strict=True):
        if says["background"] is not None:
            results["background"].append(background == says["background"])
        colour = says["recolour"] or says["colour"]
        if colour is not None:
            results["object colour"].append(dominant_colour(picture, mask) == colour)
        if says["kind"] == "count":
            results["count"].append(count_pieces(mask) == says["count"])
        if says["relation"] is not None:
            one, other = says["concepts"]
            if references.decidable(one, other):
                shares = references.shares(one), references.shares(other)
                results["side"].append(side_is_right(picture, mask, says["relation"], *shares))
    return {name: Check(sum(answers), len(answers)) for name, answers in results.items()}
