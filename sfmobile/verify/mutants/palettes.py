"""Faults in palettized weights: their tables and indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sfmobile.verify.mutants.editing import Change, Generator, Weights, name_of, value_of


def palettes(operations: list[Any]) -> list[int]:
    """Places of palettized weights."""
    return [place for place, operation in enumerate(operations) if operation.type == "constexpr_lut_to_dense"]


def palette_changed(
    what: str, turn: Callable[[np.ndarray, np.ndarray, Generator], tuple[np.ndarray, np.ndarray]]
) -> Callable[[list[Any], int, Generator], Change | None]:
    """A change of a table (entries, flat) and its packed indices (bytes)."""

    def change(operations: list[Any], place: int, generator: Generator) -> Change:
        seed = int(generator.integers(1 << 31))

        def edit(operation: Any, everything: list[Any], weights: Weights) -> None:
            values = {name: value_of(operation, everything, name) for name in ("lut", "indices")}
            lut, indices = weights.read(values["lut"]), weights.read(values["indices"])
            lut, indices = turn(lut, indices.view(np.uint8), np.random.default_rng(seed))
            weights.write(values["lut"], lut.astype(np.float16))
            weights.write(values["indices"], indices)

        return Change(f"{what} in '{name_of(operations[place])}' (draw {seed})", edit)

    return change


def swap_entries(lut: np.ndarray, indices: np.ndarray, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two entries beside each other exchanged."""
    turned = lut.copy()
    place = int(generator.integers(len(lut) - 1))
    turned[[place, place + 1]] = turned[[place + 1, place]]
    return turned, indices


def roll_indices(lut: np.ndarray, indices: np.ndarray, _: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every index some places further on."""
    # By 24 bits: whole indices of every width.
    return lut, np.roll(indices, 3)


def one_index(lut: np.ndarray, indices: np.ndarray, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """One byte of indices changed."""
    turned = indices.copy()
    turned[int(generator.integers(len(indices)))] ^= np.uint8(0b00110101)
    return lut, turned
