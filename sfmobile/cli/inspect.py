"""`sfmobile inspect`: what a bundle or a package holds, what the Neural Engine will not like, where time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import GateError, UsageError
from sfmobile.inspect.lint.choices import FailOn

TIME_PANEL = "Time on a device"


def inspect(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE|PACKAGE", help="A bundle, an .mlpackage or an .onnx file.")],
    component: Annotated[
        list[str] | None, typer.Option("--component", help="Only this component of a bundle; may be repeated.")
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option("--fail-on", help="Exit with 1 at findings of this severity or worse."),
    ] = "never",
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0, for code hosts.")
    ] = None,
    exceptions: Annotated[
        Path | None, typer.Option("--exceptions", metavar="FILE", help="Accepted findings, in place of sfmobile's own.")
    ] = None,
    activations: Annotated[
        int,
        typer.Option(
            "--activations", metavar="STEPS", min=0, help="Draw a picture in so many steps and check real activations."
        ),
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Estimate times on it, e.g. iphone-14-pro.", rich_help_panel=TIME_PANEL),
    ] = None,
    budget: Annotated[
        float, typer.Option("--budget", min=0.001, help="Seconds a picture may take.", rich_help_panel=TIME_PANEL)
    ] = 2.0,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Sampling steps of a picture.", rich_help_panel=TIME_PANEL)
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            "--measured",
            metavar="BENCH.json",
            help="Measured times of this bundle on the device; they replace the estimate.",
            rich_help_panel=TIME_PANEL,
        ),
    ] = None,
    device_factors: Annotated[
        Path | None,
        typer.Option("--device-factors", metavar="FILE", help="Scale the estimate by it.", rich_help_panel=TIME_PANEL),
    ] = None,
    save_device_factors: Annotated[
        Path | None,
        typer.Option(
            "--save-device-factors",
            metavar="FILE",
            help="Write measured over estimated, for other bundles.",
            rich_help_panel=TIME_PANEL,
        ),
    ] = None,
    compute_plan: Annotated[
        Path | None,
        typer.Option(
            "--compute-plan",
            metavar="FILE",
            help="Core ML's own costs of one package divide its time between its blocks.",
            rich_help_panel=TIME_PANEL,
        ),
    ] = None,
    record_plan: Annotated[
        Path | None,
        typer.Option(
            "--record-plan", metavar="FILE", help="On a Mac: write such costs of PACKAGE.", rich_help_panel=TIME_PANEL
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw where the time goes.", rich_help_panel=TIME_PANEL),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also operations, blocks, inputs and outputs, accepted findings.")
    ] = False,
    json_output: options.JsonOption = False,
) -> None:
    """Say what the Neural Engine will not like, what fits, and (with --device) how long a picture takes; then sizes and
    findings, and with --all operations, blocks, inputs and outputs of each package.

    The linter checks the exported program against the rules of sfmobile/inspect/lint/rules.json. Times are estimates
    unless a measurement replaces them, and say so. Nothing is executed but with --activations.
    """
    import sfmobile
    from sfmobile.files import require_writable

    if device is None and (measured or device_factors or save_device_factors or compute_plan or plot):
        raise UsageError(
            "--measured, --device-factors, --save-device-factors, --compute-plan and --plot need --device DEVICE."
        )
    require_writable(sarif, save_device_factors, plot, record_plan)
    with console.watching() as observer:
        found = sfmobile.inspect(
            path,
            component=component or (),
            exceptions=exceptions,
            activations=activations,
            device=device,
            budget=budget,
            steps=steps,
            measured=measured or (),
            device_factors=device_factors,
            compute_plan=compute_plan,
            observer=observer,
        )
    if record_plan is not None:
        write_plan(path, record_plan)
    if save_device_factors is not None:
        if found.factors is None:
            raise UsageError("Device factors need at least one measured component; pass its report with --measured.")
        found.factors.write(save_device_factors)
        console.note(f"Wrote {save_device_factors}")
    if plot is not None and found.time is not None:
        from sfmobile.inspect.estimate.plot import plot_times

        plot_times(found.time, plot)
        console.note(f"Wrote {plot}")
    if json_output:
        console.print_json(found.record())
    else:
        console.print_parts(*found.parts(everything))
    if sarif is not None:
        found.write_sarif(sarif)
        console.note(f"Wrote {sarif}")
    severe = found.severe(fail_on)
    if severe:
        rules = ", ".join(dict.fromkeys(one.rule for one in severe))
        raise GateError(
            f"'{path}' has {len(severe)} findings of severity {fail_on} or worse ({rules}); mend them, or accept "
            "them with a reason in an --exceptions file."
        )


def write_plan(package: Path, file: Path) -> None:
    """Record Core ML's compute plan of one package."""
    from sfmobile.bench.machine import describe_machine
    from sfmobile.inspect.operations.compute_plan import record_plan

    if package.suffix != ".mlpackage":
        raise UsageError(f"--record-plan needs one .mlpackage, found '{package}'; name the package inside the bundle.")
    machine = describe_machine()
    plan = record_plan(package, f"{machine.model or machine.processor}, {machine.os}")
    plan.write(file)
    console.note(f"Wrote {file}")
