"""What a bundle or a package holds, what the Neural Engine will not like in it, and where its time goes on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.bench.header import bundle_reference
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle, Check
from sfmobile.errors import UsageError
from sfmobile.inspect.block import BlockInspection, inspect_blocks
from sfmobile.inspect.estimate.cost import cost_model
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.inspect.estimate.measured import DeviceFactors, MeasuredTime, device_factors, read_measured
from sfmobile.inspect.estimate.phones import fit_verdict
from sfmobile.inspect.estimate.times import Part, calls_per_picture, device_time, estimate_programs
from sfmobile.inspect.lint.linter import severe
from sfmobile.inspect.lint.rule import read_exceptions
from sfmobile.inspect.lint.sarif import write_sarif
from sfmobile.inspect.lint.targets import bundle_targets, lint_targets, package_target
from sfmobile.inspect.operations.compute_plan import read_plan
from sfmobile.inspect.operations.package import inspect_package, inspect_packages
from sfmobile.inspect.tables import (
    blocks_table,
    findings_parts,
    findings_verdict,
    operations_table,
    sizes_table,
    tensors_table,
    time_tables,
    time_verdict,
)
from sfmobile.mlpackage.weight_file import MissingWeights
from sfmobile.observer import Observer
from sfmobile.runtime.chunks import part_records
from sfmobile.tables import Table, as_text

if TYPE_CHECKING:
    from sfmobile.inspect.estimate.devices import Device
    from sfmobile.inspect.estimate.times import DeviceTime
    from sfmobile.inspect.lint.choices import FailOn
    from sfmobile.inspect.lint.linter import Finding
    from sfmobile.inspect.lint.targets import LintTarget
    from sfmobile.inspect.operations.compute_plan import ComputePlan
    from sfmobile.inspect.operations.package import PackageInspection


LEFT_OUT = "Left out here, shown with --all: operations, blocks, accepted findings, and the blocks of a time."


@dataclass(frozen=True)
class Inspection:
    """What was found, by package: a component's name, "unet 1/2" for a chunk, or a single package's own name.

    blocks and findings: of ML Programs. time: on the device asked for. factors: its measured times over the estimated
    ones, where there are any. places: each program's path relative to `path`. notes: what couldn't be looked at, a
    sentence each. fit: the estimated memory of a bundle beside what phones allow, in a sentence.
    """

    path: Path
    packages: dict[str, PackageInspection]
    blocks: dict[str, tuple[BlockInspection, ...]]
    findings: tuple[Finding, ...]
    time: DeviceTime | None
    factors: DeviceFactors | None
    places: dict[str, str]
    notes: tuple[str, ...] = ()
    fit: str | None = None

    def severe(self, least: FailOn) -> list[Finding]:
        """Findings without an exception of severity `least` or worse."""
        return severe(self.findings, least)

    def write_sarif(self, file: Path) -> None:
        """Write the findings as SARIF 2.1.0 for a code host; packages are named relative to the working directory."""
        here, base = Path.cwd(), self.path.resolve()
        shown = base.relative_to(here) if base.is_relative_to(here) else base
        write_sarif(self.findings, {label: (shown / place).as_posix() for label, place in self.places.items()}, file)

    def record(self) -> dict[str, Any]:
        """As JSON: per package what is in it, its blocks and its findings; the time under "time"."""
        result: dict[str, Any] = {}
        for name, package in self.packages.items():
            result[name] = package.model_dump(mode="json")
            if name in self.blocks:
                result[name]["blocks"] = [asdict(block) for block in self.blocks[name]]
                result[name]["findings"] = [one.model_dump(mode="json") for one in self.findings if one.package == name]
        if self.notes:
            result["notes"] = list(self.notes)
        if self.time is not None:
            result["time"] = self.time.model_dump(mode="json")
        return result

    def verdict(self) -> list[str]:
        """Findings by severity, fit and time, a sentence each."""
        unchecked = not self.blocks or (self.notes and not self.findings)
        lines = [] if unchecked else [findings_verdict(self.findings)]
        lines += [] if self.fit is None else [self.fit]
        return lines if self.time is None else [*lines, time_verdict(self.time)]

    def parts(self, everything: bool = True) -> list[Table | str]:
        """The verdict, then tables and sentences for people; without `everything` those that call for a decision."""
        lines = self.verdict()
        parts: list[Table | str] = ["\n".join(lines)] if lines else []
        parts.append(sizes_table(str(self.path), self.packages))
        for name, package in self.packages.items():
            if everything or len(self.packages) == 1:
                parts.append(tensors_table(name, package))
            if everything:
                parts.append(operations_table(name, package))
                parts += [blocks_table(name, self.blocks[name])] if name in self.blocks else []
        if self.blocks and not (self.notes and not self.findings):
            parts += findings_parts(self.findings, accepted=everything)
        parts += self.notes
        if self.time is not None:
            parts += time_tables(self.time) if everything else list(time_tables(self.time))[:1]
        return parts if everything else [*parts, LEFT_OUT]

    def __str__(self) -> str:
        return as_text(self.parts())


def inspect(
    path: Bundle | Path | str,
    *,
    component: str | Sequence[str] = (),
    exceptions: Path | str | None = None,
    activations: int = 0,
    device: str | None = None,
    budget: float = 2.0,
    steps: int | None = None,
    measured: Path | str | Sequence[Path | str] = (),
    device_factors: DeviceFactors | Path | str | None = None,
    compute_plan: Path | str | None = None,
    observer: Observer | None = None,
) -> Inspection:
    """Operations, weights, blocks, inputs and outputs of each package, and what the Neural Engine will not like.

    The linter checks the exported program against the rules of sfmobile/inspect/lint/rules.json. Times are estimates
    unless a measurement replaces them, and say so. Nothing is executed but with `activations`.

    path: a bundle, an .mlpackage or an .onnx file. component: only these of a bundle. exceptions: a file of accepted
    findings, in place of sfmobile's own. activations: draw a picture in so many steps and check what values really
    reach. device: estimate times on it, e.g. "iphone-14-pro"; budget: seconds a picture may take, in `steps` steps;
    measured: bench reports of this bundle on the device, which replace the estimate; device_factors: scale the
    estimate by them; compute_plan: Core ML's own costs of one package divide its time between its blocks.

    Raises `UsageError` for what makes no sense together, `ArtifactError` for what is none of these files, or broken.
    """
    observer = observer or Observer()
    if device is None and (measured or device_factors or compute_plan):
        raise UsageError("--measured, --device-factors and --compute-plan need --device DEVICE.")
    names = (component,) if isinstance(component, str) else tuple(component)
    # What is executed is what was exported; to look at a program its size is enough.
    root, bundle = _opened(path, "full" if activations else "sizes")
    packages = _packages(root, bundle, names)
    # The programs of a pipeline are listed, not judged: what one of them costs says nothing of the whole.
    single = root.name in packages and packages[root.name].format == "mlprogram"
    targets = _targets(root, bundle, names, activations, observer, single)
    observer.start("Checking the rules")
    notes: list[str] = []
    try:
        findings = lint_targets(targets, None if exceptions is None else read_exceptions(Path(exceptions)))
    except MissingWeights as error:
        if bundle is not None:
            raise
        findings = []
        notes.append(f"Not checked against the rules, which look at weights: {error}")
    time: DeviceTime | None = None
    factors: DeviceFactors | None = None
    if device is not None:
        files = [Path(file) for file in ((measured,) if isinstance(measured, (str, Path)) else measured)]
        asked = _Asked(device_table().find(device), budget, steps, files, device_factors, compute_plan)
        time, factors = _time(targets, bundle, asked)
    return Inspection(
        path=root,
        packages=packages,
        blocks={target.label: inspect_blocks(target, findings) for target in targets},
        findings=tuple(findings),
        time=time,
        factors=factors,
        places={target.label: target.uri if target.in_bundle else "" for target in targets},
        notes=(*notes, *(target.note for target in targets if target.note)),
        fit=None if bundle is None or names else fit_verdict(bundle),
    )


def _opened(path: Bundle | Path | str, check: Check) -> tuple[Path, Bundle | None]:
    """Where it is, and the bundle if it is one."""
    if isinstance(path, Bundle):
        return path.root, path
    root = Path(path)
    return root, Bundle.open(root, check) if (root / MANIFEST_FILE).is_file() else None


def _packages(root: Path, bundle: Bundle | None, components: Sequence[str]) -> dict[str, PackageInspection]:
    """The packages of a bundle by component ("unet 1/2" for a chunk), or the one package by its own name."""
    if bundle is None:
        if components:
            raise UsageError(f"'{root}' is not a bundle, so --component has nothing to choose from; leave it out.")
        return inspect_packages(root)
    records = bundle.manifest.components
    unknown = [name for name in components if name not in records]
    if unknown:
        raise UsageError(f"Bundle '{root}' has no component '{unknown[0]}'; it has {', '.join(records)}.")
    found: dict[str, PackageInspection] = {}
    for name, record in records.items():
        if components and name not in components:
            continue
        parts = list(part_records(record))
        for number, part in enumerate(parts, start=1):
            label = f"{name} {number}/{len(parts)}" if len(parts) > 1 else name
            found[label] = inspect_package(bundle.root / part.package, part.function)
    return found


def _targets(
    root: Path, bundle: Bundle | None, components: Sequence[str], steps: int, observer: Observer, single: bool
) -> list[LintTarget]:
    """The ML Programs of a bundle, or the one package; with the magnitudes of a run of so many steps, if any."""
    if bundle is None:
        if steps:
            raise UsageError(f"--activations draws a picture, which needs a bundle; '{root}' is one package.")
        return [package_target(root)] if single else []
    magnitudes = None
    if steps:
        from sfmobile.inspect.operations.activations import record_magnitudes

        observer.start("Looking at activations", steps + 1)
        magnitudes = record_magnitudes(bundle, steps, advance=observer.advance)
    return bundle_targets(bundle, components, magnitudes)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a device's time."""

    device: Device
    budget: float
    steps: int | None
    measured: Sequence[Path]
    factors: DeviceFactors | Path | str | None
    compute_plan: Path | str | None


def _time(
    targets: Sequence[LintTarget], bundle: Bundle | None, asked: _Asked
) -> tuple[DeviceTime, DeviceFactors | None]:
    """Time of what was inspected, and the device's factors where something is measured."""
    device = asked.device
    parts = _parts(targets, bundle, asked.steps)
    measured: dict[str, MeasuredTime] = {}
    if asked.measured:
        if bundle is None:
            raise UsageError("--measured takes reports of a bundle; inspect the bundle rather than one package.")
        measured = read_measured(asked.measured, bundle_reference(bundle), device)
    factors = asked.factors
    if isinstance(factors, (str, Path)):
        factors = DeviceFactors.read(Path(factors), device)
    time = device_time(
        parts,
        device,
        rate_basis=device_table().chips[device.chip].basis or "published latencies of this chip",
        budget_ms=asked.budget * 1e3,
        measured=measured,
        factors=factors,
        plans=None if asked.compute_plan is None else _plans(parts, Path(asked.compute_plan)),
    )
    estimated = {
        part.name: estimate_programs(part.programs, device.chip, cost_model()).milliseconds
        for part in parts
        if part.name in measured
    }
    return time, device_factors(device, measured, estimated) if estimated else None


def _parts(targets: Sequence[LintTarget], bundle: Bundle | None, steps: int | None) -> list[Part]:
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


def _plans(parts: Sequence[Part], path: Path) -> Mapping[str, ComputePlan]:
    plan = read_plan(path)
    for part in parts:
        if any(program.package.name == plan.package for program in part.programs):
            return {part.name: plan}
    names = ", ".join(program.package.name for part in parts for program in part.programs)
    raise UsageError(f"'{path}' is the plan of '{plan.package}', which isn't among {names}; pass that of one of them.")
