"""What times a package: a runtime on this machine, the estimate of a device, or a file of timings from elsewhere."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field

from sfmobile.bench.machine import describe_machine
from sfmobile.bench.records import MachineRecord
from sfmobile.errors import UnavailableError, UsageError
from sfmobile.files import StrictModel, read_model

if TYPE_CHECKING:
    from sfmobile.inspect.lookup.choices import TimerKind
    from sfmobile.runtime.choices import ComputeUnit, Precision
    from sfmobile.runtime.coreml import ModelLoader

TIMINGS_VERSION: Final = 1
# More than the last-level cache of most processors.
SWEPT_BYTES = 64 << 20

Label = Literal["measured", "estimated"]


class BlockTiming(StrictModel):
    """Milliseconds of one call, and the fastest of `predictions` of them (an estimate has none)."""

    milliseconds: float = Field(ge=0)
    minimum_ms: float | None = None
    predictions: int = Field(default=0, ge=0)


class Timer(ABC):
    """Times one call of a package. name: the runtime, as figures must name it. device: of an estimate.

    machine: what measured; None for an estimate.
    """

    def __init__(self, label: Label, name: str, device: str | None, machine: MachineRecord | None) -> None:
        self.label: Label = label
        self.name = name
        self.device = device
        self.machine = machine

    @abstractmethod
    def time(self, package: Path, inputs: Mapping[str, np.ndarray]) -> BlockTiming:
        """Time one call."""


class MilTimer(Timer):
    """Times packages on the mil runtime of this machine.

    The processor's caches are swept before each call: in a whole network, other blocks' weights have passed through
    them since. Without that the blocks of a 5.8 M UNet added up to a third of its time.
    """

    def __init__(self, precision: Precision, predictions: int, machine: MachineRecord) -> None:
        import torch

        threads = torch.get_num_threads()
        name = f"mil {precision} (torch {torch.__version__.split('+')[0]} CPU, {threads} threads)"
        super().__init__("measured", name, None, machine)
        self.precision = precision
        self.predictions = predictions
        self._swept = np.zeros(SWEPT_BYTES // 8)

    def time(self, package: Path, inputs: Mapping[str, np.ndarray]) -> BlockTiming:
        """The median of `predictions` calls behind a first one."""
        from sfmobile.mlpackage.program import load_program
        from sfmobile.runtime.mil.evaluate import Evaluator

        evaluator = Evaluator(load_program(package), self.precision)
        return timed_calls(lambda: evaluator(inputs), self.predictions, before=self._swept.sum)


class CoreMLTimer(Timer):
    """Times packages with Core ML on this Mac."""

    def __init__(
        self, compute_unit: ComputeUnit, predictions: int, machine: MachineRecord, loader: ModelLoader | None = None
    ) -> None:
        """Raises `UnavailableError` off macOS (unless a `loader` stands in for Core ML)."""
        from sfmobile.runtime.coreml import load_model

        if loader is None and platform.system() != "Darwin":
            raise UnavailableError(
                f"Core ML needs macOS and this is {platform.system()}; use --timer mil or estimate, or measure on a "
                "device and pass --recorded."
            )
        name = f"coreml {compute_unit} ({machine.model or machine.processor}, {machine.os})"
        super().__init__("measured", name, None, machine)
        self.compute_unit = compute_unit
        self.predictions = predictions
        self._load = loader or load_model

    def time(self, package: Path, inputs: Mapping[str, np.ndarray]) -> BlockTiming:
        """The median of `predictions` calls behind a first one."""
        model = self._load(package, self.compute_unit, None)
        return timed_calls(lambda: model.predict(dict(inputs)), self.predictions)


class RecordedTimings(StrictModel):
    """Timings of block packages that were measured elsewhere, by the packages' names without suffix."""

    kind: Literal["block_timings"] = "block_timings"
    version: Literal[1] = TIMINGS_VERSION
    runtime: str
    machine: MachineRecord
    timings: dict[str, BlockTiming]


class RecordedTimer(Timer):
    """Hands out timings that were measured elsewhere: on an iPhone, on a Mac."""

    def __init__(self, path: Path) -> None:
        """Raises `ArtifactError` if `path` holds no such timings."""
        what = "a file of block timings"
        mend = "write kind 'block_timings', version, runtime, machine, and timings by package name"
        self.recorded = read_model(path, RecordedTimings, what, mend, version=TIMINGS_VERSION)
        super().__init__("measured", self.recorded.runtime, None, self.recorded.machine)
        self.path = path

    def time(self, package: Path, inputs: Mapping[str, np.ndarray]) -> BlockTiming:
        """The recorded timing. Raises `UsageError` if there is none."""
        found = self.recorded.timings.get(package.stem)
        if found is None:
            raise UsageError(
                f"'{self.path}' has no timing of {package.name}; measure that package (it is in '{package.parent}') "
                "and add it."
            )
        return found


class EstimateTimer(Timer):
    """Estimates packages on a device with the cost model; nothing is executed."""

    def __init__(self, device: str) -> None:
        from sfmobile.inspect.estimate.devices import device_table

        found = device_table().find(device)
        super().__init__("estimated", f"cost model, {found.name} ({found.chip})", found.id, None)
        self.chip = found.chip

    def time(self, package: Path, inputs: Mapping[str, np.ndarray]) -> BlockTiming:
        """The estimate of one call, its dispatch included."""
        from sfmobile.inspect.estimate.cost import estimate_call
        from sfmobile.inspect.estimate.times import segments_of
        from sfmobile.mlpackage.program import load_program

        return BlockTiming(milliseconds=estimate_call(segments_of(load_program(package)), self.chip).milliseconds)


def choose_timer(
    kind: TimerKind,
    device: str | None = None,
    recorded: Path | None = None,
    precision: Precision = "fp32",
    compute_unit: ComputeUnit | None = None,
    predictions: int = 10,
) -> Timer:
    """What times the packages, checked for options that contradict each other."""
    if recorded is not None:
        return RecordedTimer(recorded)
    if (device is None) is (kind == "estimate"):
        raise UsageError("--device belongs to --timer estimate, and that needs one; give both or neither.")
    if compute_unit is not None and kind != "coreml":
        raise UsageError(f"--compute-unit is for the coreml runtime, not for {kind}; leave it out.")
    if device is not None:
        return EstimateTimer(device)
    if kind == "coreml":
        return CoreMLTimer(compute_unit or "CPU_AND_NE", predictions, describe_machine())
    return MilTimer(precision, predictions, describe_machine())


def timed_calls(
    call: Callable[[], object], predictions: int, before: Callable[[], object] = lambda: None
) -> BlockTiming:
    """Median and minimum of `predictions` calls behind one that isn't counted; `before` runs before each, untimed."""
    call()
    seconds = []
    for _ in range(predictions):
        before()
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    return BlockTiming(
        milliseconds=float(np.median(seconds)) * 1e3, minimum_ms=min(seconds) * 1e3, predictions=predictions
    )
