"""Mixed-bit recipes: which storage each layer gets, so that the whole is smallest at a wanted signal.

1. `palettize_layers`: every layer in every storage, with its bytes; `sensitivity.measure_changes`: the squared change
   of the signal that each of them causes. Together an `OptionTable`.
2. `budget.allocate`: the choice with the least bytes for a total change, or the least change for a total of bytes.
3. `search_signal`: changes of layers add up only to first order, so the choice is measured by a real run, and the
   total asked for is corrected until the measured signal is the wanted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.palettize import palettize_weight, worker_count
from sfmobile.compress.recipe import BITS, FULL_BITS, IOS18_BITS, LayerRecipe, stored_bytes
from sfmobile.errors import ArtifactError, GateError, UsageError
from sfmobile.recipes.budget import Allocation, allocate
from sfmobile.recipes.sensitivity import Palettes

# Output channels per lookup table that are tried where the system knows such tables (iOS 18).
GROUP_SIZES: tuple[int, ...] = (32, 8)
# The measured signal may exceed the wanted one by so much before the search goes on, and it takes so many runs at most.
TOLERANCE_DB = 0.1
MOST_RUNS = 8


def storages(target: str, group_sizes: Sequence[int] = GROUP_SIZES) -> tuple[LayerRecipe, ...]:
    """What a layer may be stored as on `target` ("ios16", "ios17", "ios18"), fp16 included."""
    plain = [LayerRecipe(bits=bits) for bits in BITS if target == "ios18" or bits not in IOS18_BITS]
    grouped = [LayerRecipe(bits=bits, group_size=size) for bits in BITS for size in group_sizes]
    return (*plain, *(grouped if target == "ios18" else ()), LayerRecipe(bits=FULL_BITS))


@dataclass(frozen=True)
class LayerOptions:
    """What one layer may be stored as: each storage with its bytes and the squared change of the signal it causes."""

    storages: tuple[LayerRecipe, ...]
    bytes: NDArray[np.int64]
    errors: NDArray[np.float64]

    def index(self, storage: LayerRecipe) -> int:
        """Position of `storage`. Raises `UsageError` if it wasn't tabulated."""
        if storage not in self.storages:
            raise UsageError(f"{storage} is none of the storages compared.")
        return self.storages.index(storage)


@dataclass(frozen=True)
class OptionTable:
    """The options of every layer. `signal` is the peak that errors are compared with, in the signal's unit."""

    layers: dict[str, LayerOptions]
    peak: float

    def decibels(self, error: float) -> float:
        """PSNR of a mean squared change `error` of the signal."""
        return math.inf if error == 0 else 10 * math.log10(self.peak**2 / error)

    def error(self, decibels: float) -> float:
        """Mean squared change of the signal at a PSNR of `decibels`."""
        return float(self.peak**2 * 10 ** (-decibels / 10))

    def cheapest(self, most_error: float) -> Choice:
        """The least bytes at an expected squared change of at most `most_error`."""
        rows = self.layers.values()
        return self._choice(allocate([row.bytes for row in rows], [row.errors for row in rows], most_error))

    def best(self, most_bytes: float) -> Choice:
        """The least expected squared change within `most_bytes`. Raises `UsageError` for fewer than the least."""
        rows = self.layers.values()
        return self._choice(allocate([row.errors for row in rows], [row.bytes for row in rows], most_bytes))

    def uniform(self, storage: LayerRecipe) -> Choice:
        """Every layer stored as `storage`, or with one lookup table where its channels can't be grouped so."""
        whole = LayerRecipe(bits=storage.bits)
        return self._totals(
            {name: storage if storage in row.storages else whole for name, row in self.layers.items()}, None
        )

    def _choice(self, allocation: Allocation) -> Choice:
        pairs = zip(self.layers.items(), allocation.choices, strict=True)
        return self._totals({name: row.storages[index] for (name, row), index in pairs}, allocation)

    def _totals(self, storages: dict[str, LayerRecipe], allocation: Allocation | None) -> Choice:
        places = [(row, row.index(storages[name])) for name, row in self.layers.items()]
        return Choice(
            storages=storages,
            bytes=sum(int(row.bytes[index]) for row, index in places),
            error=sum(float(row.errors[index]) for row, index in places),
            allocation=allocation,
        )


@dataclass(frozen=True)
class Choice:
    """A storage for every layer; its bytes, the expected squared change of the signal, and how it was found."""

    storages: dict[str, LayerRecipe]
    bytes: int
    error: float
    allocation: Allocation | None = None


@dataclass(frozen=True)
class Trial:
    """A choice and the signal that a real run with it measured, in dB."""

    choice: Choice
    expected_db: float
    measured_db: float


def palettize_layers(
    weights: Mapping[str, NDArray[np.float16]],
    candidates: Sequence[LayerRecipe],
    advance: Callable[[int], None] | None = None,
) -> dict[str, StoredLayer]:
    """Palettize every layer of `weights` (fp16, output channels first) in every way of `candidates`.

    Group sizes that don't divide a layer's channels, or that put all of them into one group, are left out for it.
    `advance` is told the number of weights done. Raises `ArtifactError` naming a weight that is not finite.
    """

    def work(name: str) -> StoredLayer:
        weight = weights[name]
        fitting = tuple(storage for storage in candidates if fits(storage, weight.shape))
        tables = []
        for storage in fitting:
            if storage.bits != FULL_BITS:
                try:
                    stored = palettize_weight(weight, storage)
                except ValueError as error:
                    raise ArtifactError(f"Weight '{name}' can't be palettized: {error}.") from error
                tables.append(np.sort(stored.luts.astype(np.float32), axis=1))
            if advance is not None:
                advance(weight.size)
        return StoredLayer(fitting, Palettes(weight, tuple(tables)))

    with ThreadPoolExecutor(worker_count()) as pool:
        return dict(zip(weights, pool.map(work, weights), strict=True))


@dataclass(frozen=True)
class StoredLayer:
    """A layer in each of `storages`: a table in `palettes` for each but 16 bits, in this order."""

    storages: tuple[LayerRecipe, ...]
    palettes: Palettes

    def options(self, changes: NDArray[np.float64]) -> LayerOptions:
        """The options, given the squared change of the signal by each of the tables."""
        sizes = [stored_bytes(self.palettes.weight.shape, storage) for storage in self.storages]
        places = [place for place, storage in enumerate(self.storages) if storage.bits != FULL_BITS]
        errors = np.zeros(len(self.storages))
        errors[places] = changes
        return LayerOptions(self.storages, np.array(sizes, np.int64), errors)


def fits(storage: LayerRecipe, shape: Sequence[int]) -> bool:
    """Whether a weight of `shape` can be stored so, and the groups are more than one."""
    return storage.group_size is None or (storage.group_size < shape[0] and shape[0] % storage.group_size == 0)


def search_signal(
    table: OptionTable,
    wanted_db: float,
    measure: Callable[[Choice], float],
    *,
    tolerance_db: float = TOLERANCE_DB,
    most_runs: int = MOST_RUNS,
) -> Iterator[Trial]:
    """Choices ever closer to the smallest one that measures at least `wanted_db`; see `smallest`.

    measure: a real run with a choice, giving its signal in dB. The expected signal asked of the budget solver moves by
    what the last measurement was off, and is halved in between once it is known from both sides.
    """
    low, high = -math.inf, math.inf
    expected = wanted_db
    for _ in range(most_runs):
        choice = table.cheapest(table.error(expected))
        trial = Trial(choice, table.decibels(choice.error), measure(choice))
        yield trial
        if trial.measured_db >= wanted_db:
            high = min(high, expected)
            if trial.measured_db - wanted_db <= tolerance_db:
                return
        else:
            low = max(low, expected)
        step = wanted_db - trial.measured_db
        # Aim at the middle of what is tolerated, so that the next run most likely ends the search.
        guess = expected + step + tolerance_db / 2 if math.isfinite(step) else math.nan
        if not low < guess < high:
            guess = (low + high) / 2 if math.isfinite(low + high) else expected + math.copysign(6.0, step)
        if high - low < tolerance_db / 4:
            return
        expected = guess


def smallest(trials: Sequence[Trial], wanted_db: float) -> Trial:
    """The smallest choice that measured at least `wanted_db`. Raises `GateError` if none did."""
    reached = [trial for trial in trials if trial.measured_db >= wanted_db]
    if not reached:
        best = max(trials, key=lambda trial: trial.measured_db)
        raise GateError(
            f"No choice of bits reached {wanted_db:.2f} dB: the best of {len(trials)} measured "
            f"{best.measured_db:.2f} dB; ask for less."
        )
    return min(reached, key=lambda trial: trial.choice.bytes)
