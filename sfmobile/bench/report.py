"""Reports as data: `bench.json` and `verify.json`, versioned, and written alike by Python and by the iOS harness.

A figure never stands alone: every report names its machine, operating system, runtime, precision, compute unit,
load and the bundle it measured. Durations are milliseconds, sizes bytes, times of day UTC (ISO 8601). Fields that
only one side can fill (thermal state, placement on compute units, anonymous memory) are null on the other.
JSON has no infinity: a PSNR is null where the two results are identical, see `Agreement`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from sfmobile.bundle.choices import ComponentName, Target
from sfmobile.bundle.manifest import Sha256
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
from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeKind
from sfmobile.tables import Table, as_text, in_bytes, in_milliseconds
from sfmobile.version import __version__

REPORT_VERSION: Final = 1
MEND = "write one with `sfmobile bench BUNDLE -o FILE` or `sfmobile verify BUNDLE -o FILE`"

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Decibels = Annotated[float, Field(allow_inf_nan=False)]
ThermalState = Literal["nominal", "fair", "serious", "critical"]


class MachineRecord(StrictModel):
    """What the figures were measured on, e.g. model "iPhone15,2", processor "Apple A16", os "iOS 18.1"."""

    model: str | None
    processor: str
    architecture: str
    cores: int = Field(ge=1)
    memory_bytes: Bytes
    os: str


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


class RuntimeRecord(StrictModel):
    """What executed the components. `description` is the runtime's own name for itself, shown beside its figures.

    precision: of the evaluation (mil, torch, onnx); Core ML runs what the package says. compute_unit: Core ML only.
    threads: of the runtime's own pool, null where it doesn't say.
    """

    # The key "engine" is older than the one word for it; the iOS harness writes it too.
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    kind: RuntimeKind = Field(validation_alias="engine", serialization_alias="engine")
    description: str
    precision: Precision | None = None
    compute_unit: ComputeUnit | None = None
    threads: int | None = Field(default=None, ge=1)

    @property
    def label(self) -> str:
        """E.g. "mil fp16" or "coreml CPU_AND_NE": short, for tables and for matching evaluations."""
        return " ".join(part for part in (self.kind, self.precision, self.compute_unit) if part)


class BundleReference(StrictModel):
    """Which bundle: its name and the checksum of its manifest, which holds those of all its files."""

    name: str
    manifest_sha256: Sha256
    source_id: str
    source_sha256: Sha256
    target: Target


class ProducerRecord(StrictModel):
    """What wrote the report, and the versions of the packages that matter to its figures."""

    name: Literal["sfmobile", "ios_harness"] = "sfmobile"
    version: str = __version__
    tools: dict[str, str] = Field(default_factory=dict)


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
    """Text to picture, once, components loaded and warmed up. end_to_end_ms runs from the prompt to the pixels."""

    steps: int = Field(ge=1)
    guidance_scale: float
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
        return Table(
            f"Text to picture: {loop.steps} steps, guidance {loop.guidance_scale:g}, {loop.unet_calls} UNet calls",
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


class Agreement(StrictModel):
    """How close a result is to its reference.

    psnr_db: 20 log10(peak / rms error), see `sfmobile.verify.signal.psnr`; null where it has no finite value, which
    is where `identical` (infinite) or where `nonfinite` values of the result are NaN or infinite (then it fails any
    gate).
    """

    psnr_db: Decibels | None
    identical: bool
    max_abs_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    nonfinite: int = Field(ge=0)

    def reaches(self, gate_db: float) -> bool:
        """Whether the result is at least as close as the gate asks."""
        return self.closeness >= gate_db and self.closeness > -math.inf

    @property
    def closeness(self) -> float:
        """A number to sort by: -inf for what has no distance, inf for what is identical."""
        if self.identical:
            return math.inf
        return -math.inf if self.psnr_db is None or self.nonfinite else self.psnr_db

    def __str__(self) -> str:
        if self.nonfinite:
            return f"{self.nonfinite} values NaN or infinite"
        if self.identical:
            return "identical"
        return "-" if self.psnr_db is None else f"{self.psnr_db:.1f} dB"


class OperationDivergence(StrictModel):
    """The first operation of a program whose output leaves its reference, and what it was compared with."""

    position: int = Field(ge=0, description="index in the program's order of operations")
    operations: int = Field(ge=1, description="how many operations the program has")
    op: str
    name: str
    agreement: Agreement
    reference: str
    previous: str | None = None
    weight_psnr_db: Decibels | None = None

    @property
    def place(self) -> str:
        """Which operation it is."""
        return f"operation {self.position + 1} of {self.operations}, {self.op} '{self.name}'"

    def __str__(self) -> str:
        weight = "" if self.weight_psnr_db is None else f"; its stored weight has {self.weight_psnr_db:.1f} dB"
        before = f"; good until {self.previous}" if self.previous else ""
        return f"the error appears at {self.place}: {self.agreement} against {self.reference}{weight}{before}."


class SampleAgreement(StrictModel):
    """One input of a component: where in the pipeline it comes from, and how close the output is."""

    input: str
    agreement: Agreement


class ComponentAgreement(StrictModel):
    """One component: the worst of its samples, its gate, and where it went wrong if it did."""

    worst: Agreement
    gate_db: Decibels
    passed: bool
    samples: tuple[SampleAgreement, ...]
    first_divergence: OperationDivergence | None = None


class EvaluationAgreement(StrictModel):
    """All components in one evaluation, each fed what the reference was fed, and the picture of the whole loop.

    picture: null if the bundle lacks a component. A loop that broke off counts all its values as not finite.
    """

    runtime: RuntimeRecord
    components: dict[ComponentName, ComponentAgreement]
    picture: Agreement | None
    picture_gate_db: Decibels | None = None
    passed: bool

    @property
    def picture_passed(self) -> bool:
        """Whether the picture reaches its gate, if there are both."""
        return self.picture is None or self.picture_gate_db is None or self.picture.reaches(self.picture_gate_db)

    def failures(self) -> Iterator[str]:
        """What is under its gate, in words."""
        for name, component in self.components.items():
            if not component.passed:
                fault = component.first_divergence
                where = "" if fault is None else f", first at {fault.place}"
                yield f"{name} {component.worst} of {component.gate_db:g} dB in {self.runtime.label}{where}"
        if not self.picture_passed:
            yield f"picture {self._picture_text()} of {self.picture_gate_db:g} dB in {self.runtime.label}"

    def rows(self, steps: int) -> Iterator[tuple[str, ...]]:
        """Rows of the report's table; `steps` of the loop that drew the picture."""
        for name, component in self.components.items():
            gate, verdict = f"{component.gate_db:g} dB", "ok" if component.passed else "FAILED"
            inputs = f"{len(component.samples)} inputs"
            yield self.runtime.label, name, inputs, str(component.worst), gate, verdict
        gate, verdict = "-", "not gated"
        if self.picture_gate_db is not None:
            gate, verdict = f"{self.picture_gate_db:g} dB", "ok" if self.picture_passed else "FAILED"
        yield self.runtime.label, "picture", f"{steps} steps", self._picture_text(), gate, verdict

    def _picture_text(self) -> str:
        return "not compared" if self.picture is None else str(self.picture)


class StoredWeightsRecord(StrictModel):
    """A component's weights as its packages store them, against the checkpoint's.

    worst_error: relative error (root mean square) of the parameter furthest off; null if all are the source's to the
    bit. faults: weights that aren't stored as they should be, in words.
    """

    parameters: int = Field(ge=0)
    compressed: int = Field(ge=0)
    worst_parameter: str | None
    worst_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    faults: tuple[str, ...] = ()


class ExactAgreement(StrictModel):
    """A component in fp32 against its network with the very weights it stores: no loss stands between the two.

    worst: null if the network couldn't be built from what is stored.
    """

    weights: StoredWeightsRecord
    worst: Agreement | None
    gate_db: Decibels
    samples: tuple[SampleAgreement, ...]
    first_divergence: OperationDivergence | None = None
    passed: bool


class Exactness(StrictModel):
    """Whether the bundle is what it claims to be: its programs, its weights, its constants.

    constants: constants of the manifest that aren't the checkpoint's, in words.
    """

    components: dict[ComponentName, ExactAgreement]
    constants: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.constants and all(component.passed for component in self.components.values())

    def failures(self) -> Iterator[str]:
        """What is wrong, in words."""
        yield from self.constants
        for name, component in self.components.items():
            yield from (f"{name} {fault}" for fault in component.weights.faults)
            if component.worst is not None and not component.worst.reaches(component.gate_db):
                fault = component.first_divergence
                where = "" if fault is None else f", first at {fault.place}"
                yield f"{name} is not its network: {component.worst} of {component.gate_db:g} dB{where}"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Rows of the report's table."""
        for name, component in self.components.items():
            stored = f"{component.weights.parameters} weights, {len(component.samples)} inputs"
            worst = "not comparable" if component.worst is None else str(component.worst)
            yield "exact", name, stored, worst, f"{component.gate_db:g} dB", "ok" if component.passed else "FAILED"


class ReadingAgreement(StrictModel):
    """Our reading of the checkpoint, in torch fp32, against diffusers' own pipeline.

    stages: the tokens, embeddings, steps and picture compared. skipped: why nothing was compared, in words; null
    otherwise.
    """

    stages: tuple[SampleAgreement, ...] = ()
    gate_db: Decibels
    skipped: str | None = None

    @property
    def worst(self) -> SampleAgreement | None:
        """The stage furthest off."""
        return min(self.stages, key=lambda stage: stage.agreement.closeness, default=None)

    @property
    def passed(self) -> bool:
        """Whether every stage reaches the gate."""
        return all(stage.agreement.reaches(self.gate_db) for stage in self.stages)

    def failures(self) -> Iterator[str]:
        """The first stage that is off, in words."""
        for stage in self.stages:
            if not stage.agreement.reaches(self.gate_db):
                yield (
                    f"the checkpoint is read otherwise than diffusers reads it: {stage.agreement} of {self.gate_db:g} "
                    f"dB at '{stage.input}'"
                )
                return

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Rows of the report's table."""
        worst = self.worst
        if worst is not None:
            verdict = "ok" if self.passed else "FAILED"
            stages = f"{len(self.stages)} stages"
            yield "diffusers", "torch networks", stages, str(worst.agreement), f"{self.gate_db:g} dB", verdict


class VerifyReport(StrictModel):
    """`verify.json`: the exported components against the networks they were exported from."""

    kind: Literal["verify"] = "verify"
    schema_version: Literal[1] = REPORT_VERSION
    created_at: datetime
    producer: ProducerRecord
    machine: MachineRecord
    bundle: BundleReference
    reference: RuntimeRecord
    prompts: tuple[str, ...]
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    evaluations: tuple[EvaluationAgreement, ...]
    exactness: Exactness | None = None
    reading: ReadingAgreement | None = None
    passed: bool

    def failures(self) -> list[str]:
        """What is wrong, and what is under its gate in any evaluation, in words."""
        proofs = [proof for proof in (self.exactness, self.reading) if proof is not None]
        return [failure for part in (*proofs, *self.evaluations) for failure in part.failures()]

    def faults(self) -> list[str]:
        """Where the errors of failed components appear, a sentence each."""
        exact = {} if self.exactness is None else self.exactness.components
        return [
            f"exact {name}: {component.first_divergence}"
            for name, component in exact.items()
            if component.first_divergence is not None
        ] + [
            f"{evaluation.runtime.label} {name}: {component.first_divergence}"
            for evaluation in self.evaluations
            for name, component in evaluation.components.items()
            if component.first_divergence is not None
        ]

    def table(self) -> Table:
        """The figures for people."""
        return Table(
            f"{self.bundle.name} against {self.reference.description}",
            ("evaluation", "component", "compared", "worst PSNR", "gate", ""),
            (
                *(() if self.exactness is None else self.exactness.rows()),
                *(() if self.reading is None else self.reading.rows()),
                *(row for evaluation in self.evaluations for row in evaluation.rows(self.steps)),
            ),
            text_columns=(0, 1, 2, 5),
            caption=f"{len(self.prompts)} prompts, seed {self.seed}, guidance {self.guidance_scale:g}; "
            f"{self.machine.processor}, {self.machine.os}",
        )

    def __str__(self) -> str:
        verdict = "Passed: every component reaches its gate."
        if not self.passed:
            verdict = f"FAILED: {'; '.join(self.failures())}."
        return as_text([verdict, self.table(), *self.faults()])


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

_KINDS: dict[type[BenchReport] | type[VerifyReport], Literal["bench", "verify"]] = {
    BenchReport: "bench",
    VerifyReport: "verify",
}
SCHEMA_FILES: dict[type[BenchReport] | type[VerifyReport], Path] = {
    BenchReport: Path(__file__).with_name("bench.schema.json"),
    VerifyReport: Path(__file__).with_name("verify.schema.json"),
}


def now() -> datetime:
    """The time of day for `created_at`, UTC, whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0)


class _Header(BaseModel):
    """What every report says of itself."""

    kind: Literal["bench", "verify"]


def read_report(path: Path, kind: type[Report]) -> Report:
    """Read a report of the given kind. Raises `ArtifactError` if it is missing, of another kind or from the future."""
    name = _KINDS[kind]
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
