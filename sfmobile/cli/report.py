"""`sfmobile report import`: reports that were measured elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options


def import_report(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="An .xcresult of the Performance tests, or a bench.json.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.json", help="Also write the report here.")
    ] = None,
    json_output: options.JsonOption = False,
) -> None:
    """Show the report of an iPhone or a Mac as `sfmobile bench` shows its own; `compare` takes what -o writes."""
    from sfmobile.bench.report import write_report
    from sfmobile.bench.xcresult import read_result

    report = read_result(result)
    if output is not None:
        write_report(report, output)
    if json_output:
        console.print_json(report)
        return
    console.print_parts(*report.tables())
    for caution in report.cautions():
        console.note(f"caution: {caution}")
