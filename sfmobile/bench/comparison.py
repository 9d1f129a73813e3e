"""Two reports of one kind side by side: what changed, and whether it got worse by more than is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sfmobile.bench.report import BenchReport, ComponentLatency, read_report, report_kind
from sfmobile.bench.verify_report import Agreement, VerifyReport
from sfmobile.errors import UsageError
from sfmobile.tables import Table, as_text, in_bytes, in_milliseconds

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

    @property
    def is_change(self) -> bool:
        """Whether a table shows two figures: a tenth of a percent or of a dB apart, or one that isn't there."""
        if self.regressed or (self.before is None) != (self.after is None):
            return True
        return self.worse is not None and abs(self.worse) >= 0.05

    def row(self) -> tuple[str, ...]:
        """The figure for people."""
        verdict = "REGRESSED" if self.regressed else "" if self.gated else "not gated"
        return self.name, self._figure(self.before), self._figure(self.after), self._difference(), verdict

    def _figure(self, value: float | None) -> str:
        if value is None:
            return "-"
        if self.unit == "bytes":
            return in_bytes(value)
        return f"{value:.1f} dB" if self.unit == "dB" else in_milliseconds(value)

    def _difference(self) -> str:
        """The signed change of the figure itself."""
        if self.worse is None:
            return "-"
        return f"{-self.worse:+.1f} dB" if self.unit == "dB" else f"{self.worse:+.1f} %"


@dataclass(frozen=True)
class Comparison:
    """Two reports of one kind side by side; `before` and `after` are their names."""

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def regressed(self) -> tuple[str, ...]:
        """Names of the figures that got worse by more than is allowed."""
        return tuple(change.name for change in self.changes if change.regressed)

    @property
    def passed(self) -> bool:
        """Whether none did."""
        return not self.regressed

    def verdict(self) -> str:
        """Whether anything is worse, in one sentence."""
        if not self.passed:
            return f"FAILED: worse in {', '.join(self.regressed)}."
        changed = sum(change.is_change for change in self.changes)
        return f"Passed: nothing is worse; {changed} of {len(self.changes)} figures changed."

    def parts(self, everything: bool = False) -> list[Table | str]:
        """The verdict, and the figures that changed, for people; all of them if `everything` is wanted."""
        shown = tuple(change for change in self.changes if everything or change.is_change)
        same = len(self.changes) - len(shown)
        if not shown:
            return [self.verdict()]
        table = Table(
            f"{self.before} -> {self.after}",
            ("figure", "before", "after", "change", ""),
            tuple(change.row() for change in shown),
            text_columns=(0, 4),
            caption=f"{same} more haven't changed, see --all." if same else None,
        )
        return [self.verdict(), table]

    def __str__(self) -> str:
        return as_text(self.parts())


def compare(
    before: BenchReport | VerifyReport | Path | str,
    after: BenchReport | VerifyReport | Path | str,
    *,
    threshold: float = 10.0,
    threshold_db: float = 1.0,
    across: bool = False,
) -> Comparison:
    """Compare two reports of `bench`, of `verify`, or of the iOS harness: the records, or the files.

    Gated are median and minimum latency, end to end, peak memory (`threshold` percent for the worse) and every PSNR
    (`threshold_db` dB); first loads and tails are shown without a gate. across: compare latencies although machine,
    runtime or precision differ.

    Raises `UsageError` for reports that can't be compared, `ArtifactError` for a file that is none.
    """
    names = _name(before, "before"), _name(after, "after")
    old, new = _opened(before), _opened(after)
    if isinstance(old, VerifyReport) and isinstance(new, VerifyReport):
        return Comparison(*names, tuple(compare_verify(old, new, threshold_db)))
    if not (isinstance(old, BenchReport) and isinstance(new, BenchReport)):
        raise UsageError(
            f"'{names[0]}' is a {old.kind} report and '{names[1]}' a {new.kind} report; compare two of one kind."
        )
    reasons = differences(old, new)
    if reasons and not across:
        raise UsageError(
            f"The figures of '{names[0]}' and '{names[1]}' come from different set-ups ({'; '.join(reasons)}); "
            "measure both the same way, or compare them nonetheless with --across."
        )
    return Comparison(*names, tuple(compare_bench(old, new, threshold)))


def _name(report: BenchReport | VerifyReport | Path | str, role: str) -> str:
    return role if isinstance(report, (BenchReport, VerifyReport)) else str(report)


def _opened(report: BenchReport | VerifyReport | Path | str) -> BenchReport | VerifyReport:
    if isinstance(report, (BenchReport, VerifyReport)):
        return report
    path = Path(report)
    return read_report(path, VerifyReport) if report_kind(path) == "verify" else read_report(path, BenchReport)


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
        ("runtime", before.runtime.kind, after.runtime.kind),
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
        label = evaluation.runtime.label
        for name, component in evaluation.components.items():
            yield f"{label} {name}", component.worst
        if evaluation.picture is not None:
            yield f"{label} picture", evaluation.picture


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
