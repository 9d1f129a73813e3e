"""What `inspect --device` shows: estimated or measured time per component and block, against a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.cli import console, engine
from sfmobile.errors import UsageError

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.inspect.estimate.measured import Measurement
    from sfmobile.inspect.estimate.times import ComponentTime, Part, TimeReport
    from sfmobile.inspect.lint.targets import LintTarget
    from sfmobile.inspect.operations.compute_plan import ComputePlan

MOST_BLOCKS = 12


@dataclass(frozen=True)
class TimeOptions:
    """Options of `inspect` that concern time."""

    device: str | None
    budget: float
    steps: int | None
    measured: tuple[Path, ...]
    calibration: Path | None
    save_calibration: Path | None
    plan: Path | None
    plot: Path | None

    def check(self) -> None:
        """Raise `UsageError` if there are options that mean nothing without a device."""
        if self.device is None and (
            self.measured or self.calibration or self.save_calibration or self.plan or self.plot
        ):
            raise UsageError(
                "--measured, --calibration, --save-calibration, --compute-plan and --plot need --device DEVICE."
            )


def time_of(targets: Sequence[LintTarget], bundle: Bundle | None, options: TimeOptions) -> TimeReport | None:
    """Time of what was inspected on the device asked for; None if none was."""
    from sfmobile.inspect.estimate.cost import cost_model
    from sfmobile.inspect.estimate.devices import device_table
    from sfmobile.inspect.estimate.measured import Calibration, calibrate, read_measurements
    from sfmobile.inspect.estimate.times import estimate_programs, time_report

    if options.device is None:
        return None
    table = device_table()
    device = table.find(options.device)
    parts = _parts(targets, bundle, options.steps)
    measured: dict[str, Measurement] = {}
    if options.measured:
        if bundle is None:
            raise UsageError("--measured takes reports of a bundle; inspect the bundle rather than one package.")
        measured = read_measurements(options.measured, engine.reference(bundle), device)
    calibration = None if options.calibration is None else Calibration.read(options.calibration, device)
    if options.save_calibration is not None:
        estimated = {
            name: estimate_programs(part.programs, device.chip, cost_model()).milliseconds
            for part in parts
            for name in measured
            if name == part.name
        }
        calibrate(device, measured, estimated).write(options.save_calibration)
        console.note(f"Wrote {options.save_calibration}")
    report = time_report(
        parts,
        device,
        rate_basis=table.chips[device.chip].basis or "published latencies of this chip",
        budget_ms=options.budget * 1e3,
        measured=measured,
        calibration=calibration,
        plans=_plans(parts, options.plan),
    )
    if options.plot is not None:
        from sfmobile.inspect.estimate.plot import plot_times

        plot_times(report, options.plot)
        console.note(f"Wrote {options.plot}")
    return report


def _parts(targets: Sequence[LintTarget], bundle: Bundle | None, steps: int | None) -> list[Part]:
    from sfmobile.inspect.estimate.times import Part, calls_per_picture

    programs: dict[str, list[LintTarget]] = {}
    for target in targets:
        programs.setdefault(target.component, []).append(target)
    parts = []
    for component, members in programs.items():
        calls = 1
        if bundle is not None:
            (name,) = [known for known in bundle.manifest.components if known == component]
            calls = calls_per_picture(bundle.manifest, name, steps)
        parts.append(Part(component, tuple(member.program for member in members), calls))
    return parts


def _plans(parts: Sequence[Part], path: Path | None) -> Mapping[str, ComputePlan] | None:
    from sfmobile.inspect.operations.compute_plan import read_plan

    if path is None:
        return None
    plan = read_plan(path)
    for part in parts:
        if any(program.package.name == plan.package for program in part.programs):
            return {part.name: plan}
    names = ", ".join(program.package.name for part in parts for program in part.programs)
    raise UsageError(f"'{path}' is the plan of '{plan.package}', which isn't among {names}; pass that of one of them.")


def print_times(report: TimeReport) -> None:
    """The components against the budget, and the blocks that take longest."""
    budget = report.budget_ms
    rows: list[tuple[str, ...]] = [
        (
            one.component,
            str(one.calls),
            console.in_milliseconds(one.call_ms / 1e3),
            console.in_milliseconds(one.picture_ms / 1e3),
            f"{one.picture_ms / budget:.0%}",
            one.basis,
            ", ".join(f"{count} {kind}" for kind, count in one.off_engine.items()) or "-",
        )
        for one in report.components
    ]
    total = console.in_milliseconds(report.picture_ms / 1e3)
    rows.append(("all", "", "", total, f"{report.picture_ms / budget:.0%}", report.label, ""))
    verdict = "within" if report.within_budget else "beyond"
    sources = "; ".join(dict.fromkeys(f"{one.basis}: {one.source}" for one in report.components))
    console.print_table(
        f"Time on {report.device_name} ({report.chip}), {report.label}",
        ("component", "calls", "a call", "a picture", "of budget", "basis", "planned off the Neural Engine"),
        rows,
        text_columns=(0, 5, 6),
        caption=f"{total} is {verdict} the budget of {budget / 1e3:g} s. {sources}. "
        f"Rate of the chip: {report.rate_basis}.",
    )
    for one in report.components:
        print_block_times(one)


def print_block_times(component: ComponentTime) -> None:
    """The blocks of a component that take longest."""
    longest = sorted(component.blocks, key=lambda block: -block.milliseconds)
    shown, rest = longest[:MOST_BLOCKS], longest[MOST_BLOCKS:]
    rows = [
        (
            block.block,
            console.in_milliseconds(block.milliseconds / 1e3),
            f"{block.share:.1%}",
            f"{block.arithmetic:.0%}",
            f"{block.memory:.0%}",
            f"{block.cpu:.0%}",
        )
        for block in shown
    ]
    if rest:
        spent = sum(block.milliseconds for block in rest)
        share = sum(block.share for block in rest)
        rows.append((f"{len(rest)} more", console.in_milliseconds(spent / 1e3), f"{share:.1%}", "", "", ""))
    console.print_table(
        f"{component.component}: one call by block, division estimated",
        ("block", "time", "of call", "bound by arithmetic", "by memory", "on CPU"),
        rows,
    )
