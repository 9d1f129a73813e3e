"""A weight as lookup tables and indices, by recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.kmeans import Palette, pack_bits, palettize
from sfmobile.compress.recipe import LayerRecipe

MAX_WORKERS = 8


@dataclass(frozen=True)
class PalettizedWeight:
    """luts: (groups, 2**bits) fp16, one per `group_size` output channels. error: weighted sum of squared differences
    over all weights. lookup: indices of the weight's shape, or the one palette that gives them once they are asked for.
    """

    bits: int
    luts: NDArray[np.float16]
    error: float
    lookup: NDArray[np.uint8] | Palette

    @property
    def indices(self) -> NDArray[np.uint8]:
        """Index of each weight into its group's table, uint8 of the weight's shape."""
        return self.lookup.indices if isinstance(self.lookup, Palette) else self.lookup

    def packed(self) -> NDArray[np.uint8]:
        """The indices of `bits` bits each, as `pack_bits` packs them."""
        if isinstance(self.lookup, Palette):
            return self.lookup.packed()
        return pack_bits(self.lookup.reshape(-1), self.bits)

    def dense(self) -> NDArray[np.float16]:
        """The weight as a device reads it."""
        rows = self.indices.reshape(len(self.luts), -1)
        return np.take_along_axis(self.luts, rows.astype(np.intp), axis=1).reshape(self.indices.shape)


def group_size(channels: int, layer: LayerRecipe) -> int:
    """Output channels that share a table: all without groups, and where the size asked for doesn't divide them."""
    size = layer.group_size or channels
    return channels if channels % size else size


def palettize_weight(
    weight: NDArray[np.float16], layer: LayerRecipe, importance: NDArray[np.float32] | None = None
) -> PalettizedWeight:
    """Palettize one weight (output channels first) as `layer` says, with one table or one per group of channels.

    A group size that doesn't divide the channels falls back to one table for all. `importance` as in
    `kmeans.palettize`. Raises `ValueError` for weights that are not finite.
    """
    size = group_size(len(weight), layer)
    if size == len(weight):
        one = palettize(weight, layer.bits, importance)
        return PalettizedWeight(layer.bits, one.lut[None], one.error, one)
    spread = None if importance is None else np.broadcast_to(importance, weight.shape)
    luts = np.empty((len(weight) // size, 1 << layer.bits), np.float16)
    indices = np.empty(weight.shape, np.uint8)
    error = price = 0.0
    for group in range(len(luts)):
        rows = slice(group * size, (group + 1) * size)
        palette = palettize(weight[rows], layer.bits, None if spread is None else spread[rows], price)
        luts[group], indices[rows] = palette.lut, palette.indices
        error += palette.error
        # Groups of one weight are alike: the last price is a good first guess.
        price = palette.price
    return PalettizedWeight(layer.bits, luts, error, indices)


def worker_count() -> int:
    """Threads that palettize side by side."""
    return min(MAX_WORKERS, os.cpu_count() or 1)
