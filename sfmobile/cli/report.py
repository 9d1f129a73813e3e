"""`sfmobile report`: reports that were measured elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console
from sfmobile.cli.bench import print_report

if TYPE_CHECKING:
    from sfmobile.bench.report import BenchReport, ConditionsRecord


def import_report(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="An .xcresult of the Performance tests, or a bench.json.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.json", help="Also write the report here.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="JSON alone on stdout instead of tables.")] = False,
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
    print_report(report)
    print_placement(report)
    for caution in cautions(report.conditions):
        console.note(f"caution: {caution}")


def print_placement(report: BenchReport) -> None:
    """Where Core ML means to run the operations, if the report says."""
    placed = {name: one.placement for name, one in report.components.items() if one.placement is not None}
    if not placed:
        return
    console.print_table(
        "Operations by preferred compute unit",
        ("component", "Neural Engine", "GPU", "CPU", "Neural Engine's share of the cost", "off the Neural Engine"),
        (
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


def cautions(conditions: ConditionsRecord) -> list[str]:
    """What makes the figures worse than the device can do, or hard to repeat."""
    found = []
    states = [state for state in (conditions.thermal_state_before, conditions.thermal_state_after) if state is not None]
    if any(state != "nominal" for state in states):
        found.append(f"the device was warm: thermal state {' before and '.join(states)} after the measurement")
    if conditions.low_power_mode:
        found.append("low power mode was on")
    if conditions.memory_warnings:
        found.append(f"the system warned {conditions.memory_warnings} times of too little memory")
    if conditions.battery_charging:
        found.append("the device was charging, which warms it")
    return found
