"""`sfmobile compare`: regressions between two reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import GateError


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
    everything: Annotated[bool, typer.Option("--all", help="Figures that haven't changed too.")] = False,
    json_output: options.JsonOption = False,
) -> None:
    """Compare two reports of `bench`, of `verify`, or of the iOS harness; exit with 1 if B is worse than A.

    Gated are median and minimum latency, end to end, peak memory (by percent), and every PSNR (by dB);
    first loads and tails are shown without a gate.
    """
    import sfmobile

    found = sfmobile.compare(before, after, threshold=threshold, threshold_db=threshold_db, across=across)
    if json_output:
        console.print_json(
            {
                "kind": "comparison",
                "before": found.before,
                "after": found.after,
                "changes": [vars(change) for change in found.changes],
                "regressed": list(found.regressed),
            }
        )
    else:
        console.print_parts(*found.parts(everything))
    if not found.passed:
        raise GateError(f"'{after}' is worse than '{before}' in {', '.join(found.regressed)}.")
