"""`sfmobile compare`: regressions between two reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console
from sfmobile.errors import GateError, UsageError

if TYPE_CHECKING:
    from sfmobile.bench.comparison import Change


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="The report to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The report that must not be worse.")],
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, metavar="PERCENT", help="Allowed change for the worse, bench reports."),
    ] = 10.0,
    threshold_db: Annotated[
        float, typer.Option("--threshold-db", min=0, metavar="DB", help="Allowed loss of PSNR, verify reports.")
    ] = 1.0,
    across: Annotated[
        bool, typer.Option("--across", help="Compare latencies although machine, runtime or precision differ.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
) -> None:
    """Compare two reports of `bench`, of `verify`, or of the iOS harness; exit with 1 if B is worse than A.

    Gated are median and minimum latency, end to end, peak memory (by percent), and every PSNR (by dB);
    first loads and tails are shown without a gate.
    """
    changes = read_changes(before, after, threshold, threshold_db, across)
    regressed = [change for change in changes if change.regressed]
    if json_output:
        console.print_json(
            {
                "kind": "comparison",
                "before": str(before),
                "after": str(after),
                "changes": [vars(change) for change in changes],
                "regressed": [change.name for change in regressed],
            }
        )
    else:
        console.print_table(
            f"{before} -> {after}",
            ("figure", "before", "after", "change", ""),
            (
                (
                    change.name,
                    figure(change.before, change.unit),
                    figure(change.after, change.unit),
                    difference(change),
                    "REGRESSED" if change.regressed else "" if change.gated else "not gated",
                )
                for change in changes
            ),
            text_columns=(0, 4),
        )
    if regressed:
        names = ", ".join(change.name for change in regressed)
        raise GateError(f"'{after}' is worse than '{before}' in {names}.")


def read_changes(before: Path, after: Path, percent: float, decibels: float, across: bool) -> list[Change]:
    """The changes between two reports of the same kind."""
    from sfmobile.bench.comparison import compare_bench, compare_verify, differences
    from sfmobile.bench.report import BenchReport, VerifyReport, read_report, report_kind

    kinds = report_kind(before), report_kind(after)
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"'{before}' is a {kinds[0]} report and '{after}' a {kinds[1]} report; compare two of one kind."
        )
    if kinds[0] == "verify":
        return compare_verify(read_report(before, VerifyReport), read_report(after, VerifyReport), decibels)
    old, new = read_report(before, BenchReport), read_report(after, BenchReport)
    reasons = differences(old, new)
    if reasons and not across:
        raise UsageError(
            f"The figures of '{before}' and '{after}' come from different set-ups ({'; '.join(reasons)}); "
            "measure both the same way, or compare them nonetheless with --across."
        )
    return compare_bench(old, new, percent)


def figure(value: float | None, unit: str) -> str:
    """A figure for people."""
    if value is None:
        return "-"
    if unit == "bytes":
        return console.in_bytes(value)
    return f"{value:.1f} dB" if unit == "dB" else console.in_milliseconds(value / 1e3)


def difference(change: Change) -> str:
    """The signed change of the figure itself."""
    if change.worse is None:
        return "-"
    return f"{-change.worse:+.1f} dB" if change.unit == "dB" else f"{change.worse:+.1f} %"
