"""Two reports of one kind side by side: what changed, and whether it got worse by more than is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sfmobile.bench.report import Agreement, BenchReport, ComponentLatency, RuntimeRecord, VerifyReport

Unit = Literal["ms", "bytes", "dB"]

# First loads and tails vary from run to run on any machine that isn't idle; these are gated, the others shown.
GATED_LATENCIES = ("median_ms", "minimum_ms", "end_to_end_ms", "peak_bytes")


@dataclass(frozen=True)
class Change:
    """One figure of both reports. `before` or `after` is None where only the other has it.

    worse: change for the worse, in percent of `before` (ms, bytes) or in dB; negative where it got better.
    regressed: worse than the threshold, and gated; a figure that is lost altogether (a component gone, a result that
    became NaN) counts.
    """

    name: str
    unit: Unit
    before: float | None
    after: float | None
    worse: float | None
    gated: bool
    regressed: bool


def compare_bench(before: BenchReport, after: BenchReport, percent: float) -> list[Change]:
    """Latency and memory, gated at `percent` for the worse."""
    old, new = dict(_figures(before)), dict(_figures(after))
    return [_slower(name, old.get(name), new.get(name), percent) for name in _union(old, new)]


def compare_verify(before: VerifyReport, after: VerifyReport, decibels: float) -> list[Change]:
    """PSNR of every component and picture in every evaluation, gated at `decibels` for the worse."""
    old, new = dict(_agreements(before)), dict(_agreements(after))
    return [_further(name, old.get(name), new.get(name), decibels) for name in _union(old, new)]


def differences(before: BenchReport, after: BenchReport) -> list[str]:
    """Why the figures of two reports can't be compared: another model, machine, runtime, precision or unit.

    A model is another one if it came from elsewhere and its weights differ; one trained further is still the same.
    """
    other = before.bundle.source_sha256 != after.bundle.source_sha256
    pairs = (
        ("model", before.bundle.source_id if other else "", after.bundle.source_id if other else ""),
        ("machine", before.machine.model or before.machine.processor, after.machine.model or after.machine.processor),
        ("processor", before.machine.processor, after.machine.processor),
        ("cores", before.machine.cores, after.machine.cores),
        ("engine", before.runtime.engine, after.runtime.engine),
        ("precision", before.runtime.precision, after.runtime.precision),
        ("compute unit", before.runtime.compute_unit, after.runtime.compute_unit),
        ("threads", before.runtime.threads, after.runtime.threads),
        ("producer", before.producer.name, after.producer.name),
    )
    return [f"{what} {old or 'none'} against {new or 'none'}" for what, old, new in pairs if old != new]


def _union(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Names of both, those of the first report first, in their order."""
    return list(dict.fromkeys([*old, *new]))


def _figures(report: BenchReport) -> Iterator[tuple[str, float]]:
    for name, latency in report.components.items():
        for field in ("cold_load_ms", "warm_load_ms", "first_prediction_ms", "median_ms", "p95_ms", "minimum_ms"):
            yield f"{name} {field}", getattr(latency, field)
        yield from _memory(name, latency)
    if report.loop is not None:
        yield "loop text_encoder_ms", report.loop.text_encoder_ms
        yield "loop steps_ms", sum(report.loop.steps_ms)
        yield "loop decoder_ms", report.loop.decoder_ms
        yield "loop end_to_end_ms", report.loop.end_to_end_ms
        if report.loop.memory is not None:
            yield "loop peak_bytes", float(report.loop.memory.peak_bytes)


def _memory(name: str, latency: ComponentLatency) -> Iterator[tuple[str, float]]:
    if latency.memory is not None:
        yield f"{name} peak_bytes", float(latency.memory.peak_bytes)


def _agreements(report: VerifyReport) -> Iterator[tuple[str, Agreement]]:
    for evaluation in report.evaluations:
        label = runtime_label(evaluation.runtime)
        for name, component in evaluation.components.items():
            yield f"{label} {name}", component.worst
        if evaluation.picture is not None:
            yield f"{label} picture", evaluation.picture


def runtime_label(runtime: RuntimeRecord) -> str:
    """E.g. "mil fp16" or "coreml CPU_AND_NE": short, for tables and for matching evaluations."""
    return " ".join(part for part in (runtime.engine, runtime.precision, runtime.compute_unit) if part)


def _slower(name: str, before: float | None, after: float | None, percent: float) -> Change:
    field = name.rsplit(" ", 1)[1]
    unit: Unit = "bytes" if field.endswith("_bytes") else "ms"
    worse = None if before is None or after is None or before == 0 else (after - before) / before * 100
    gated = field in GATED_LATENCIES
    lost = before is not None and after is None
    return Change(name, unit, before, after, worse, gated, gated and (lost or (worse is not None and worse > percent)))


def _further(name: str, before: Agreement | None, after: Agreement | None, decibels: float) -> Change:
    old = None if before is None else before.psnr_db
    new = None if after is None else after.psnr_db
    worse = None if old is None or new is None else old - new
    # From identical to any distance is a fall from infinity; from a distance to NaN or to nothing has no figure.
    was_usable = before is not None and (before.identical or old is not None)
    lost = after is None or (not after.identical and (new is None or (before is not None and before.identical)))
    regressed = (worse is not None and worse > decibels) or (was_usable and lost)
    return Change(name, "dB", old, new, worse, True, regressed)
