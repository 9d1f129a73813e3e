"""`sfmobile inspect`: what a bundle or a package holds, what the Neural Engine will not like, where time goes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.cli import console, findings, times
from sfmobile.errors import GateError, UsageError

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.inspect.estimate.times import TimeReport
    from sfmobile.inspect.lint.linter import Finding
    from sfmobile.inspect.lint.targets import LintTarget
    from sfmobile.inspect.operations.package import PackageInspection, TensorInspection

MOST_FREQUENT = 20


class FailOn(str, Enum):
    """`--fail-on`."""

    never = "never"
    note = "note"
    warning = "warning"
    error = "error"


TIME_PANEL = "Time on a device"


def inspect(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE|PACKAGE", help="A bundle, an .mlpackage or an .onnx file.")],
    component: Annotated[
        list[str] | None, typer.Option("--component", help="Only this component of a bundle; may be repeated.")
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit with 1 at findings of this severity or worse.")
    ] = FailOn.never,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0, for code hosts.")
    ] = None,
    exceptions: Annotated[
        Path | None, typer.Option("--exceptions", metavar="FILE", help="Accepted findings, in place of sfmobile's own.")
    ] = None,
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate", metavar="STEPS", min=0, help="Draw a picture in so many steps and check real activations."
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
        int | None, typer.Option("--steps", min=1, help="Denoising steps of a picture.", rich_help_panel=TIME_PANEL)
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            "--measured",
            metavar="BENCH.json",
            help="Measurements of this bundle on the device; they replace the estimate.",
            rich_help_panel=TIME_PANEL,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="Scale the estimate by it.", rich_help_panel=TIME_PANEL),
    ] = None,
    save_calibration: Annotated[
        Path | None,
        typer.Option(
            "--save-calibration",
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
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of tables.")] = False,
) -> None:
    """Show operations, weights, blocks, inputs and outputs of each package, and what the Neural Engine will not like.

    The linter checks the exported program against the rules of sfmobile/inspect/lint/rules.json. Times are estimates
    unless a measurement replaces them, and say so. Nothing is executed but with --calibrate.
    """
    time_options = times.TimeOptions(
        device, budget, steps, tuple(measured or ()), calibration, save_calibration, compute_plan, plot
    )
    time_options.check()
    packages = inspect_packages(path, component or [])
    if record_plan is not None:
        write_plan(path, record_plan)
    bundle, targets = lint_subjects(path, component or [], calibrate)
    with console.status("Checking the rules"):
        found = lint_findings(targets, exceptions)
    spent = times.time_of(targets, bundle, time_options)
    rows = {target.label: findings.block_rows(target, found) for target in targets}
    if json_output:
        console.print_json(as_json(packages, rows, found, spent))
    else:
        print_sizes(path, packages)
        for name, package in packages.items():
            print_tensors(name, package)
            print_operations(name, package)
            if name in rows:
                findings.print_blocks(name, rows[name])
        if targets:
            findings.print_findings(found)
        if spent is not None:
            times.print_times(spent)
    if sarif is not None:
        save_sarif(path, targets, found, sarif)
    check_severity(path, found, fail_on)


def lint_subjects(path: Path, components: list[str], calibrate: int) -> tuple[Bundle | None, list[LintTarget]]:
    """The bundle, if it is one, and its ML Programs, or the one package; magnitudes of a run of `calibrate` steps."""
    from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
    from sfmobile.inspect.lint.targets import bundle_targets, package_target

    if not (path / MANIFEST_FILE).is_file():
        if calibrate:
            raise UsageError(f"--calibrate draws a picture, which needs a bundle; '{path}' is one package.")
        return None, [package_target(path)] if path.is_dir() else []
    bundle = Bundle.open(path, check="sizes")
    magnitudes = None
    if calibrate:
        from sfmobile.inspect.operations.activations import record_magnitudes

        with console.progress() as bars:
            task = bars.add_task("Looking at activations", total=calibrate + 1)
            magnitudes = record_magnitudes(bundle, calibrate, advance=lambda units: bars.advance(task, units))
    return bundle, bundle_targets(bundle, components, magnitudes)


def lint_findings(targets: list[LintTarget], exceptions: Path | None) -> list[Finding]:
    """All findings, with the exceptions of a file or sfmobile's own."""
    from sfmobile.inspect.lint.rule import read_exceptions
    from sfmobile.inspect.lint.targets import lint_targets

    return lint_targets(targets, None if exceptions is None else read_exceptions(exceptions))


def as_json(
    packages: dict[str, PackageInspection],
    rows: dict[str, list[dict[str, Any]]],
    found: list[Finding],
    spent: TimeReport | None,
) -> dict[str, Any]:
    """Per package what is in it, its blocks and its findings; with a device also the time, under "time"."""
    result: dict[str, Any] = {}
    for name, package in packages.items():
        result[name] = package.model_dump(mode="json")
        if name in rows:
            result[name]["blocks"] = rows[name]
            result[name]["findings"] = [one.model_dump(mode="json") for one in found if one.package == name]
    if spent is not None:
        result["time"] = spent.model_dump(mode="json")
    return result


def save_sarif(path: Path, targets: list[LintTarget], found: list[Finding], file: Path) -> None:
    """Write the findings for a code host; packages are named relative to where the command runs."""
    from sfmobile.inspect.lint.sarif import write_sarif

    here = Path.cwd()
    base = path.resolve()
    shown = base.relative_to(here) if base.is_relative_to(here) else base
    uris = {target.label: (shown / target.uri if target.in_bundle else shown).as_posix() for target in targets}
    write_sarif(found, uris, file)
    console.note(f"Wrote {file}")


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


def check_severity(path: Path, found: list[Finding], fail_on: FailOn) -> None:
    """Raise `GateError` if a finding without an exception is as severe as asked, or worse."""
    from sfmobile.inspect.lint.linter import fails
    from sfmobile.inspect.lint.rule import SEVERITIES

    if not fails(found, fail_on.value):
        return
    least = SEVERITIES.index(fail_on.value)
    severe = [one for one in found if one.exception is None and SEVERITIES.index(one.severity) >= least]
    rules = ", ".join(dict.fromkeys(one.rule for one in severe))
    raise GateError(
        f"'{path}' has {len(severe)} findings of severity {fail_on.value} or worse ({rules}); mend them, or accept "
        "them with a reason in an --exceptions file."
    )


def inspect_packages(path: Path, components: list[str]) -> dict[str, PackageInspection]:
    """The inspected packages of a bundle by component ("unet 1/2" for a chunk), or the one package by its own name."""
    from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
    from sfmobile.inspect.operations.package import inspect_package
    from sfmobile.runtime.chunks import part_records

    if not (path / MANIFEST_FILE).is_file():
        if components:
            raise UsageError(f"'{path}' is not a bundle, so --component has nothing to choose from; leave it out.")
        return {path.name: inspect_package(path)}
    bundle = Bundle.open(path, check="sizes")
    records = bundle.manifest.components
    unknown = [name for name in components if name not in records]
    if unknown:
        raise UsageError(f"Bundle '{path}' has no component '{unknown[0]}'; it has {', '.join(records)}.")
    found: dict[str, PackageInspection] = {}
    for name, record in records.items():
        if components and name not in components:
            continue
        parts = list(part_records(record))
        for number, part in enumerate(parts, start=1):
            label = f"{name} {number}/{len(parts)}" if len(parts) > 1 else name
            found[label] = inspect_package(bundle.root / part.package, part.function)
    return found


def print_sizes(path: Path, packages: dict[str, PackageInspection]) -> None:
    """One row a package, and their sum."""
    rows = [
        (
            name,
            package.format + (f" {package.opset}" if package.opset else ""),
            str(sum(package.operations.values())),
            f"{package.weights:,}",
            f"{package.compressed_weights / package.weights:.0%}" if package.weights else "-",
            console.in_bytes(package.bytes),
            "-" if package.bits_per_weight is None else f"{package.bits_per_weight:.2f}",
        )
        for name, package in packages.items()
    ]
    if len(packages) > 1:
        weights = sum(package.weights for package in packages.values())
        stored = sum(package.weight_bytes for package in packages.values())
        total = console.in_bytes(sum(package.bytes for package in packages.values()))
        rows.append(("all", "", "", f"{weights:,}", "", total, f"{stored * 8 / weights:.2f}" if weights else "-"))
    console.print_table(
        str(path),
        ("package", "format", "operations", "weights", "compressed", "bytes", "bits/weight"),
        rows,
        text_columns=(0, 1),
    )


def print_tensors(name: str, package: PackageInspection) -> None:
    """Inputs and outputs."""

    def row(direction: str, tensor: TensorInspection) -> tuple[str, str, str, str]:
        shape = " x ".join("?" if size is None else str(size) for size in tensor.shape)
        return direction, tensor.name, tensor.dtype, shape

    console.print_table(
        f"{name}: inputs and outputs",
        ("", "name", "type", "shape"),
        [row("in", tensor) for tensor in package.inputs] + [row("out", tensor) for tensor in package.outputs],
        text_columns=(0, 1, 2, 3),
    )


def print_operations(name: str, package: PackageInspection) -> None:
    """The most frequent operations."""
    shown = list(package.operations.items())[:MOST_FREQUENT]
    rest = len(package.operations) - len(shown)
    console.print_table(
        f"{name}: operations",
        ("operation", "count"),
        [(kind, str(count)) for kind, count in shown],
        caption=f"and {rest} kinds more, see --json" if rest > 0 else None,
    )
