"""A weight as lookup tables and indices, by recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.kmeans import palettize
from sfmobile.compress.recipe import LayerRecipe

MAX_WORKERS = 8


@dataclass(frozen=True)
class PalettizedWeight:
    """luts: (groups, 2**bits) fp16, one per `group_size` output channels; indices: uint8 of the weight's shape.

    error: weighted sum of squared differences over all weights.
    """

    bits: int
    luts: NDArray[np.float16]
    indices: NDArray[np.uint8]
    error: float

    def dense(self) -> NDArray[np.float16]:
        """The weight as a device reads it."""
        rows = self.indices.reshape(len(self.luts), -1)
        return np.take_along_axis(self.luts, rows.astype(np.intp), axis=1).reshape(self.indices.shape)


def palettize_weight(
    weight: NDArray[np.float16], layer: LayerRecipe, importance: NDArray[np.float32] | None = None
) -> PalettizedWeight:
    """Palettize one weight (output channels first) as `layer` says, with one table or one per group of channels.

    A group size that doesn't divide the channels falls back to one table for all. `importance` as in
    `kmeans.palettize`. Raises `ValueError` for weights that are not finite.
    """
    channels = weight.shape[0]
    size = layer.group_size or channels
    if channels % size:
        size = channels
    spread = None if importance is None else np.broadcast_to(importance, weight.shape)
    luts = np.empty((channels // size, 1 << layer.bits), np.float16)
    indices = np.empty(weight.shape, np.uint8)
    error = price = 0.0
    for group in range(len(luts)):
        rows = slice(group * size, (group + 1) * size)
        palette = palettize(weight[rows], layer.bits, None if spread is None else spread[rows], price)
        luts[group], indices[rows] = palette.lut, palette.indices
        error += palette.error
        # Groups of one weight are alike: the last price is a good first guess.
        price = palette.price
    return PalettizedWeight(layer.bits, luts, indices, error)


def worker_count() -> int:
    """Threads that palettize side by side."""
    return min(MAX_WORKERS, os.cpu_count() or 1)
