"""The search for a recipe, end to end for one component: measure, choose, run, correct; and uniform bits beside it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sfmobile.bundle.manifest import ComponentName
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import ComponentRecipe, LayerRecipe, architecture_digest
from sfmobile.errors import UsageError
from sfmobile.observer import Observer
from sfmobile.recipes.sensitivity import measure_changes
from sfmobile.recipes.signal import (
    Final,
    LatentSignal,
    OutputSignal,
    Runs,
    SignalLevels,
    token_ids,
)
from sfmobile.recipes.storages import (
    GROUP_SIZES,
    Choice,
    OptionTable,
    palettize_layers,
    search_signal,
    smallest,
    storages,
)
from sfmobile.tables import Table, in_bytes

Phase = Literal["reference", "sensitivities", "palettizing", "uniform bits", "recipe", "curve"]
PHASES: dict[Phase, str] = {
    "reference": "running the reference",
    "sensitivities": "measuring sensitivities",
    "palettizing": "palettizing every layer in every way",
    "uniform bits": "running with uniform bits",
    "recipe": "running with recipes",
    "curve": "running for the plot",
}
# Backward passes through each prompt's run, each with signs of its own.
PROBES = 6
# Sizes of a size-signal curve, as bits per weight that can be compressed.
CURVE_BITS = (2.0, 3.0, 4.0, 5.0, 6.0)


@dataclass(frozen=True)
class Goal:
    """What to search for: "signal" (dB to reach at least), "signal of" or "size of" uniform bits, or "bits" a weight on
    average, of all weights of the component."""

    kind: Literal["signal", "signal of", "size of", "bits"] = "signal of"
    value: float = 6


@dataclass(frozen=True)
class SearchOptions:
    """How to search. prompts: how many of the runs sensitivities are taken from, None for all.

    probes: backward passes through each of them. curve: also measure uniform bits and recipes over a range of sizes,
    for a plot.
    """

    goal: Goal = Goal()
    target: str = "ios17"
    group_sizes: tuple[int, ...] = GROUP_SIZES
    prompts: int | None = None
    probes: int = PROBES
    seed: int = 0
    curve: bool = False


@dataclass(frozen=True)
class Point:
    """A way to store a component: its bytes (all weights, those left in fp16 included), expected and measured."""

    label: str
    bytes: int
    expected_db: float
    measured: SignalLevels
    storages: Mapping[str, LayerRecipe]

    def row(self) -> tuple[str, ...]:
        """The point for people."""
        levels = (self.measured.final_db, self.measured.call_db, self.expected_db)
        return self.label, in_bytes(self.bytes), *(_in_decibels(level) for level in levels)

    def record(self) -> dict[str, Any]:
        """The point as JSON."""
        return {
            "label": self.label,
            "bytes": self.bytes,
            "final_db": _finite(self.measured.final_db),
            "call_db": _finite(self.measured.call_db),
            "expected_db": _finite(self.expected_db),
        }


@dataclass(frozen=True)
class SearchResult:
    """The recipe found for one component, with what it was compared to.

    uniform: the same bits for every layer. seconds: by phase. final: what signals are of, the latents of whole runs or
    the component's own output.
    """

    component: ComponentName
    choice: Choice
    point: Point
    uniform: tuple[Point, ...]
    curve: tuple[Point, ...]
    layers: dict[str, tuple[int, ...]]
    seconds: dict[str, float] = field(default_factory=dict)
    final: Final = "output"

    def recipe(self) -> ComponentRecipe:
        """The component's part of a recipe file."""
        return ComponentRecipe(
            layers=dict(self.choice.storages),
            architecture=architecture_digest(self.layers),
        )

    def table(self) -> Table:
        """Sizes and signals of the recipe and of uniform bits, and how the layers are stored, for people."""
        points = sorted((*self.uniform, self.point), key=lambda point: point.bytes)
        return Table(
            f"{self.component}: {len(self.layers)} layers, compared in torch fp32",
            ("stored as", "weights", f"PSNR of {self.final}", "of single calls", "expected"),
            tuple(point.row() for point in points),
            caption=f"{self._bits()}. {self.gain()}",
        )

    def record(self) -> dict[str, Any]:
        """The search as JSON."""
        return {
            "component": self.component,
            "recipe": self.point.record(),
            "uniform": [point.record() for point in self.uniform],
            "curve": [point.record() for point in self.curve],
            "layers": {name: storage.model_dump() for name, storage in self.choice.storages.items()},
            "seconds": self.seconds,
        }

    def gain(self) -> str:
        """The recipe beside the uniform bits that are nearest in what was asked for."""
        point = self.point
        other = min(self.uniform, key=lambda one: abs(one.bytes - point.bytes))
        if abs(other.bytes - point.bytes) < 0.01 * other.bytes:
            gain = point.measured.final_db - other.measured.final_db
            return f"At the size of {other.label}: {gain:+.1f} dB."
        worse = [one for one in self.uniform if one.measured.final_db <= point.measured.final_db]
        if not worse:
            return "No uniform bits compared with are smaller."
        best = max(worse, key=lambda one: one.measured.final_db)
        return f"{point.bytes / best.bytes - 1:+.1%} of the size of {best.label}, at no less signal."

    def _bits(self) -> str:
        """How many layers have how many bits."""
        counts = Counter(storage.bits for storage in self.choice.storages.values())
        return "Layers: " + ", ".join(f"{count} at {bits} bits" for bits, count in sorted(counts.items()))


def _in_decibels(value: float) -> str:
    return "identical" if value == math.inf else f"{value:.2f} dB"


def _finite(value: float) -> float | None:
    """A figure that JSON can hold; identical results have none."""
    return value if math.isfinite(value) else None


def search_component(
    checkpoint: Checkpoint,
    component: ComponentName,
    runs: Runs,
    options: SearchOptions,
    observer: Observer | None = None,
) -> SearchResult:
    """Search the storage of every layer of `component`.

    Raises `UsageError` for a size that can't be reached, `GateError` for a signal that can't.
    """
    return _Search(checkpoint, component, runs, options, observer or Observer()).result()


class _Search:
    def __init__(
        self,
        checkpoint: Checkpoint,
        component: ComponentName,
        runs: Runs,
        options: SearchOptions,
        observer: Observer,
    ) -> None:
        self.component, self.options, self.observer = component, options, observer
        self.seconds: dict[str, float] = {}
        self._finals: dict[tuple[LayerRecipe, ...], float] = {}
        with self._phase("reference", len(runs.prompts) * runs.steps):
            self.signal = make_signal(checkpoint, component, runs, observer)
        self.network = self.signal.network
        self.table = self._table()

    def result(self) -> SearchResult:
        bits = [layer.bits for layer in storages(self.options.target, ()) if layer.bits <= 8]
        goal = self.options.goal
        compared = [int(goal.value)] if goal.kind in ("signal of", "size of") else [6]
        if goal.kind == "bits":
            compared = [min(bits, key=lambda bit: abs(bit - goal.value))]
        with self._phase("uniform bits"):
            uniform = {bit: self._point(f"{bit} bits", self._uniform(bit)) for bit in compared}
        with self._phase("recipe"):
            if goal.kind == "size of":
                choice = self.table.best(self._uniform(compared[0]).bytes)
            elif goal.kind == "bits":
                choice = self.table.best(self._bytes_at(goal.value))
            else:
                choice = self._reach(goal.value if goal.kind == "signal" else uniform[compared[0]].measured.final_db)
            point = self._point("recipe", choice)
        curve: list[Point] = []
        if self.options.curve:
            with self._phase("curve"):
                uniform |= {bit: self._point(f"{bit} bits", self._uniform(bit)) for bit in bits if bit not in uniform}
                curve = list(self._curve())
        points = tuple(sorted(uniform.values(), key=lambda one: one.bytes))
        return SearchResult(
            self.component,
            choice,
            point,
            points,
            tuple(curve),
            self.network.shapes,
            dict(self.seconds),
            final=self.signal.final,
        )

    def _table(self) -> OptionTable:
        options = self.options
        candidates = storages(options.target, options.group_sizes)
        weights = self.network.weights()
        total = sum(weight.size for weight in weights.values()) * len(candidates)
        with self._phase("palettizing", total):
            layers = palettize_layers(weights, candidates, self.observer.advance)
        samples = self.signal.samples(options.prompts) * options.probes
        with self._phase("sensitivities", sum(len(sample.calls) for sample in samples)):
            palettes = {name: layer.palettes for name, layer in layers.items()}
            changes = measure_changes(
                self.network.net, palettes, samples, options.seed, self.observer.advance, self.network.stream
            )
        return OptionTable({name: layer.options(changes[name]) for name, layer in layers.items()}, self.signal.peak)

    def _bytes_at(self, bits: float) -> float:
        """Bytes that are left for the layers if all weights take so many bits on average.

        Raises `UsageError` for fewer than the least.
        """
        weights = sum(math.prod(shape) for shape in self.network.shapes.values()) + self.network.other_bytes // 2
        least = sum(int(row.bytes.min()) for row in self.table.layers.values())
        size = bits * weights / 8 - self.network.other_bytes
        if size < least:
            fewest = 8 * (least + self.network.other_bytes) / weights
            raise UsageError(f"--average-bits {bits:g} is too little for {self.component}: at least {fewest:.2f}.")
        return size

    def _uniform(self, bits: int) -> Choice:
        return self.table.uniform(LayerRecipe(bits=bits))

    def _reach(self, wanted_db: float) -> Choice:
        if not math.isfinite(wanted_db):
            return self._uniform(16)
        trials = list(search_signal(self.table, wanted_db, self._measure_final))
        return smallest(trials, wanted_db).choice

    def _curve(self) -> Iterator[Point]:
        weights = sum(math.prod(shape) for shape in self.network.shapes.values())
        least = sum(int(row.bytes.min()) for row in self.table.layers.values())
        for bits in CURVE_BITS:
            size = bits * weights / 8
            if size > least:
                yield self._point(f"{bits:g} bits on average", self.table.best(size))

    def _measure_final(self, choice: Choice) -> float:
        key = tuple(choice.storages.values())
        if key not in self._finals:
            self.network.store(choice.storages)
            self._finals[key] = self.signal.final_db()
        return self._finals[key]

    def _point(self, label: str, choice: Choice) -> Point:
        final_db = self._measure_final(choice)
        self.network.store(choice.storages)
        size = choice.bytes + self.network.other_bytes
        return Point(label, size, self.table.decibels(choice.error), self.signal.measure(final_db), choice.storages)

    @contextmanager
    def _phase(self, phase: Phase, total: int | None = None) -> Iterator[None]:
        self.observer.start(f"{self.component}: {PHASES[phase]}", total)
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start


def make_signal(
    checkpoint: Checkpoint, component: ComponentName, runs: Runs, observer: Observer
) -> LatentSignal | OutputSignal:
    """What `component` is judged by on `runs`, the reference computed.

    Raises `UsageError` for a component that runs from a prompt to a picture don't call, and for a checkpoint that has
    no such runs.
    """
    pipeline = checkpoint.pipeline
    if pipeline.task != "text-to-image":
        raise UsageError(
            f"Bits are searched for on runs from a prompt alone, and '{checkpoint.name}' is for {pipeline.task}; give "
            "every layer as many with --bits, or a recipe for the model that it was made from."
        )
    if component == pipeline.unet:
        return LatentSignal(checkpoint, runs, observer.advance)
    encoders = [name for name in pipeline.text_encoders if pipeline.added is None or name != pipeline.added.component]
    if component not in (*encoders, pipeline.decoder):
        judged = ", ".join((*encoders, pipeline.unet, pipeline.decoder))
        raise UsageError(f"Bits can't be searched for component '{component}'; expected one of {judged}.")
    if component in encoders:
        ids = token_ids(checkpoint, component, [*runs.prompts, runs.negative_prompt])
        return OutputSignal(checkpoint, component, [{"input_ids": row} for row in ids])
    latents = LatentSignal(checkpoint, runs, observer.advance).latents
    scaled = latents / np.float32(checkpoint.autoencoder_layout.scaling_factor)
    return OutputSignal(checkpoint, component, [{"latents": row[None]} for row in scaled])
