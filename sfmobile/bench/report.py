"""Reports as data: `bench.json` and `verify.json`, versioned, and written alike by Python and by the iOS harness.

A figure never stands alone: every report names its machine, operating system, runtime, precision, compute unit,
load and the bundle it measured. Durations are milliseconds, sizes bytes, times of day UTC (ISO 8601). Fields that
only one side can fill (thermal state, placement on compute units, anonymous memory) are null on the other.
JSON has no infinity: a PSNR is null where the two results are identical, see `Agreement`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field

from sfmobile.bench.records import (
    REPORT_VERSION,
    BundleReference,
    Bytes,
    MachineRecord,
    ProducerRecord,
    RuntimeRecord,
)
from sfmobile.bench.verify_report import VerifyReport
from sfmobile.bundle.choices import ComponentName
from sfmobile.errors import ArtifactError
from sfmobile.files import (
    StrictModel,
    check_version,
    make_folder,
    read_json,
    read_model,
    validated,
    write_json,
    write_text,
)
from sfmobile.tables import Table, as_text, in_bytes, in_milliseconds

MEND = "write one with `sfmobile bench BUNDLE -o FILE` or `sfmobile verify BUNDLE -o FILE`"

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ThermalState = Literal["nominal", "fair", "serious", "critical"]


class ConditionsRecord(StrictModel):
    """What else was going on. Load is the one-minute load average; the rest is a phone's or a notebook's.

    memory_warnings: how often the system warned of too little memory during the measurement (iOS).
    increased_memory_entitlement: whether the app was built with the entitlement for a higher limit (iOS).
    waited_for_nominal_s: seconds spent waiting for the device to cool before something was measured (iOS).
    """

    load_average_before: float | None = Field(default=None, ge=0)
    load_average_after: float | None = Field(default=None, ge=0)
    thermal_state_before: ThermalState | None = None
    thermal_state_after: ThermalState | None = None
    low_power_mode: bool | None = None
    battery_level: float | None = Field(default=None, ge=0, le=1)
    battery_charging: bool | None = None
    memory_warnings: int | None = Field(default=None, ge=0)
    increased_memory_entitlement: bool | None = None
    waited_for_nominal_s: float | None = Field(default=None, ge=0)


class MemoryRecord(StrictModel):
    """Memory of the measuring process, sampled while it worked.

    before_bytes: before the component was loaded. peak_bytes: the highest sample (resident set; on iOS the
    physical footprint that the system's limit applies to). peak_anonymous_bytes and peak_file_backed_bytes: the
    highest samples of the two kinds where the system tells them apart; file-backed pages can be dropped and read
    again, anonymous ones can't. scope: whose memory it is; what the system's own processes hold for a model is in no
    figure. On Apple systems also: process_peak_bytes, the kernel's own peak of the footprint since the process began,
    which no sampling misses; neural_bytes and neural_peak_bytes, what it counts for the Neural Engine on the process'
    account, most of it outside of the footprint; limit_remaining_bytes, the least that could still be allocated.
    """

    before_bytes: Bytes
    peak_bytes: Bytes
    peak_anonymous_bytes: Bytes | None = None
    peak_file_backed_bytes: Bytes | None = None
    scope: Literal["process"] = "process"
    process_peak_bytes: Bytes | None = None
    neural_bytes: Bytes | None = None
    neural_peak_bytes: Bytes | None = None
    limit_remaining_bytes: Bytes | None = None

    @property
    def added_bytes(self) -> int:
        """What the work added to what the process held before it."""
        return self.peak_bytes - self.before_bytes


class PlacementRecord(StrictModel):
    """Operations by the compute unit Core ML prefers for them (MLComputePlan), and the share of the estimated cost."""

    operations: int = Field(ge=0)
    neural_engine: int = Field(ge=0)
    gpu: int = Field(ge=0)
    cpu: int = Field(ge=0)
    unknown: int = Field(default=0, ge=0)
    neural_engine_cost: float | None = Field(default=None, ge=0, le=1)
    gpu_cost: float | None = Field(default=None, ge=0, le=1)
    cpu_cost: float | None = Field(default=None, ge=0, le=1)
    off_neural_engine: dict[str, int] = Field(default_factory=dict, description="operator -> count not preferred there")


class BufferRecord(StrictModel):
    """The arrays a component works on in Core ML: how many lie in memory shared with the Neural Engine (IOSurface), and
    how many outputs the last prediction wrote into the array it was given, told by identity."""

    inputs: int = Field(ge=0)
    shared_inputs: int = Field(ge=0)
    outputs: int = Field(ge=0)
    shared_outputs: int = Field(ge=0)
    backed_outputs: int = Field(ge=0)


class ComponentLatency(StrictModel):
    """One component in a process of its own.

    cold_load_ms: the first load, the runtime's own code already in memory, the package evicted from the file cache and
    from Core ML's compiled cache where the system lets us. warm_load_ms: loading it again afterwards.
    first_prediction_ms: the first prediction after the cold load, which specializes on some runtimes. median_ms, p95_ms
    (linear interpolation), minimum_ms: of `predictions` predictions after the first one.

    Core ML specializes a model for the device in its first load. compile_ms and first_load_ms are the parts of
    cold_load_ms, and first_load_kind says what it started from: what Core ML keeps of its own is beyond its reach.
    cpu_only_median_ms: the same predictions on the CPU alone; a figure close to it says that the others ran there too.
    """

    cold_load_ms: Milliseconds
    warm_load_ms: Milliseconds
    first_prediction_ms: Milliseconds
    predictions: int = Field(ge=1)
    median_ms: Milliseconds
    p95_ms: Milliseconds
    minimum_ms: Milliseconds
    memory: MemoryRecord | None = None
    package_bytes: Bytes
    parameters: int = Field(ge=0)
    placement: PlacementRecord | None = None
    compile_ms: Milliseconds | None = None
    first_load_ms: Milliseconds | None = None
    first_load_kind: Literal["compiled_now", "compiled_before", "compiled_at_build"] | None = None
    thermal_state_before: ThermalState | None = None
    thermal_state_after: ThermalState | None = None
    buffers: BufferRecord | None = None
    cpu_only_median_ms: Milliseconds | None = None


class LoopLatency(StrictModel):
    """Text to picture, once, components loaded and warmed up. end_to_end_ms runs from the prompt to the pixels.

    steps: evaluations of the UNet, of which a sampler may take more than it was asked for steps. sampler: its name;
    older reports don't say.
    """

    steps: int = Field(ge=1)
    guidance_scale: float
    sampler: str | None = None
    unet_calls: int = Field(ge=1)
    text_encoder_ms: Milliseconds
    steps_ms: tuple[Milliseconds, ...]
    decoder_ms: Milliseconds
    end_to_end_ms: Milliseconds
    memory: MemoryRecord | None = None
    thermal_state_before: ThermalState | None = None
    thermal_state_after: ThermalState | None = None


class BenchReport(StrictModel):
    """`bench.json`: latency per component, and of the whole loop.

    crashed: what the measuring process ended in the midst of, in earlier attempts at the same report; not measured.
    """

    kind: Literal["bench"] = "bench"
    schema_version: Literal[1] = REPORT_VERSION
    created_at: datetime
    producer: ProducerRecord
    machine: MachineRecord
    conditions: ConditionsRecord
    runtime: RuntimeRecord
    bundle: BundleReference
    components: dict[ComponentName, ComponentLatency]
    loop: LoopLatency | None = None
    crashed: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        """The figures for people, and what they were measured on."""
        found = [self._component_table()]
        if self.loop is not None:
            found.append(self._loop_table(self.loop))
        placed = {name: one.placement for name, one in self.components.items() if one.placement is not None}
        return [*found, *([_placement_table(placed)] if placed else [])]

    def cautions(self) -> list[str]:
        """What makes the figures worse than the device can do, or hard to repeat."""
        conditions, found = self.conditions, []
        ends = (conditions.thermal_state_before, conditions.thermal_state_after)
        states = [state for state in ends if state is not None]
        if any(state != "nominal" for state in states):
            found.append(f"the device was warm: thermal state {' before and '.join(states)} after the measurement")
        if conditions.low_power_mode:
            found.append("low power mode was on")
        if conditions.memory_warnings:
            found.append(f"the system warned {conditions.memory_warnings} times of too little memory")
        if conditions.battery_charging:
            found.append("the device was charging, which warms it")
        return found

    def __str__(self) -> str:
        return as_text([*self.tables(), *(f"Caution: {caution}." for caution in self.cautions())])

    def _component_table(self) -> Table:
        before = self.conditions.load_average_before
        load = "" if before is None else f", load {before:.1f} before"
        return Table(
            f"{self.bundle.name} on {self.runtime.description}",
            ("component", "cold load", "warm load", "first", "median", "p95", "peak memory", "of it added", "package"),
            tuple(
                (
                    name,
                    in_milliseconds(one.cold_load_ms),
                    in_milliseconds(one.warm_load_ms),
                    in_milliseconds(one.first_prediction_ms),
                    in_milliseconds(one.median_ms),
                    in_milliseconds(one.p95_ms),
                    in_bytes(one.memory.peak_bytes if one.memory else None),
                    in_bytes(one.memory.added_bytes if one.memory else None),
                    in_bytes(one.package_bytes),
                )
                for name, one in self.components.items()
            ),
            caption=f"{self.machine.processor}, {self.machine.cores} cores, {self.machine.os}{load}",
        )

    def _loop_table(self, loop: LoopLatency) -> Table:
        sampler = f" of {loop.sampler}" if loop.sampler is not None else ""
        return Table(
            f"Text to picture: {loop.steps} steps{sampler}, guidance {loop.guidance_scale:g}, "
            f"{loop.unet_calls} UNet calls",
            ("text encoder", "a step", "all steps", "decoder", "end to end", "peak memory"),
            (
                (
                    in_milliseconds(loop.text_encoder_ms),
                    in_milliseconds(sum(loop.steps_ms) / loop.steps),
                    in_milliseconds(sum(loop.steps_ms)),
                    in_milliseconds(loop.decoder_ms),
                    in_milliseconds(loop.end_to_end_ms),
                    in_bytes(loop.memory.peak_bytes if loop.memory else None),
                ),
            ),
            text_columns=(),
            caption="Components loaded and run once before.",
        )


def _placement_table(placed: Mapping[ComponentName, PlacementRecord]) -> Table:
    """Where Core ML means to run the operations."""
    return Table(
        "Operations by preferred compute unit",
        ("component", "Neural Engine", "GPU", "CPU", "Neural Engine's share of the cost", "off the Neural Engine"),
        tuple(
            (
                name,
                f"{one.neural_engine} of {one.operations}",
                str(one.gpu),
                str(one.cpu),
                "-" if one.neural_engine_cost is None else f"{one.neural_engine_cost:.0%}",
                ", ".join(f"{count} {operator}" for operator, count in sorted(one.off_neural_engine.items())) or "-",
            )
            for name, one in placed.items()
        ),
        text_columns=(0, 5),
        caption="MLComputePlan's own estimates.",
    )


Report = TypeVar("Report", BenchReport, VerifyReport)

KINDS: dict[type[BenchReport] | type[VerifyReport], Literal["bench", "verify"]] = {
    BenchReport: "bench",
    VerifyReport: "verify",
}
SCHEMA_FILES: dict[type[BenchReport] | type[VerifyReport], Path] = {
    BenchReport: Path(__file__).with_name("bench.schema.json"),
    VerifyReport: Path(__file__).with_name("verify.schema.json"),
}


class _Header(BaseModel):
    """What every report says of itself."""

    kind: Literal["bench", "verify"]


def read_report(path: Path, kind: type[Report]) -> Report:
    """Read a report of the given kind. Raises `ArtifactError` if it is missing, of another kind or from the future."""
    name = KINDS[kind]
    data = read_json(path, "a report", MEND)
    found = validated(_Header, data, f"'{path}'", "a report", MEND).kind
    if found != name:
        raise ArtifactError(f"'{path}' is not a {name} report: expected kind '{name}', found '{found}'.")
    check_version(data, "schema_version", REPORT_VERSION, f"'{path}'")
    return validated(kind, data, f"'{path}'", f"a {name} report", MEND)


def report_kind(path: Path) -> Literal["bench", "verify"]:
    """Which kind of report a file is. Raises `ArtifactError` if it is none."""
    return read_model(path, _Header, "a report", MEND).kind


def write_report(report: BenchReport | VerifyReport, path: Path) -> None:
    """Write a report whole or not at all, making its folder if need be. Raises as `files.atomic_write` does."""
    make_folder(path.parent)
    write_json(path, report, durable=True)


def report_schema(kind: type[BenchReport] | type[VerifyReport]) -> str:
    """JSON schema of a report, as committed beside this file. Fields with a default may be left out."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for schema_kind, schema_file in SCHEMA_FILES.items():
        write_text(schema_file, report_schema(schema_kind))
