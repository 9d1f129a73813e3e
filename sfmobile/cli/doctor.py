"""`sfmobile doctor`: versions, what this machine can do, and what is missing for the rest."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.cli import console
from sfmobile.tables import in_bytes

if TYPE_CHECKING:
    from sfmobile.bench.report import MachineRecord

# Exporting a full-size SD-1.5 checkpoint writes about 2 GB and reads as much.
DISK_FOR_FULL_SIZE = 5_000_000_000


@dataclass(frozen=True)
class Capability:
    """Something the tool does, whether this machine can, and why or with what."""

    name: str
    available: bool
    detail: str


@dataclass(frozen=True)
class Requirement:
    """A declared dependency: what is asked, what is installed, what is wrong with it (None: nothing)."""

    name: str
    asked: str
    installed: str | None
    problem: str | None


def doctor(
    path: Annotated[
        Path, typer.Option("--path", help="Where bundles would be written: its free space is what counts.")
    ] = Path(),
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of tables.")] = False,
) -> None:
    """Say what this machine can do, with which versions, and what is missing.

    Exits with 3 if a required package is missing, broken or outside its range.
    """
    from sfmobile.bench.machine import describe_machine

    with console.status("Looking at this machine"):
        machine = describe_machine()
        requirements = check_requirements()
        capabilities = find_capabilities()
        memory_free, disk_free = free_memory(), free_disk(path)
    problems = [requirement for requirement in requirements if requirement.problem]
    if json_output:
        console.print_json(as_json(machine, requirements, capabilities, memory_free, disk_free))
    else:
        print_tables(machine, requirements, capabilities, memory_free, disk_free)
    if problems:
        from sfmobile.errors import UnavailableError

        names = ", ".join(f"{problem.name} ({problem.problem})" for problem in problems)
        raise UnavailableError(f"Required packages don't fit: {names}; install sfmobile again in a clean environment.")


def check_requirements(extra: str = "") -> list[Requirement]:
    """The package's declared dependencies, or those of one extra, against what is installed.

    Compiled ones are imported too: that is what can break.
    """
    from importlib import metadata

    from packaging.requirements import Requirement as Declared

    from sfmobile.bench.machine import installed_version

    found: list[Requirement] = []
    for line in metadata.requires("sfmobile") or []:
        declared = Declared(line)
        belongs = declared.marker is None or declared.marker.evaluate({"extra": extra})
        if not belongs or (extra and declared.marker is None):
            continue
        installed = installed_version(declared.name)
        if installed is None:
            found.append(Requirement(declared.name, str(declared.specifier), None, "not installed"))
            continue
        problem = None if declared.specifier.contains(installed, prereleases=True) else f"outside {declared.specifier}"
        found.append(
            Requirement(declared.name, str(declared.specifier), installed, problem or import_problem(declared.name))
        )
    return found


def import_problem(package: str) -> str | None:
    """Why a compiled package can't be imported, or None. Pure Python ones break less and cost as much time."""
    if package not in ("torch", "coremltools", "numpy", "onnx", "safetensors"):
        return None
    try:
        importlib.import_module(package)
    except (ImportError, OSError) as error:
        return f"can't be imported: {error}"
    return None


def importable(module: str) -> bool:
    """Whether a module could be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def find_capabilities() -> list[Capability]:
    """What the tool does, one row each."""
    mac = sys.platform == "darwin"
    converts = importable("torch") and importable("coremltools")
    swift, xcodebuild = shutil.which("swift"), shutil.which("xcodebuild")
    onnx_problems = [row.name for row in check_requirements("onnx") if row.problem]
    train_problems = [row.name for row in check_requirements("train") if row.problem]
    return [
        Capability(
            "export to Core ML", converts, "torch and coremltools" if converts else "needs torch and coremltools"
        ),
        Capability(
            "runtime mil", importable("torch"), "executes exported ML Programs with torch, fp32 or fp16 evaluation"
        ),
        Capability("runtime torch", importable("torch"), "the reference networks; needs the source checkpoint"),
        Capability("runtime onnx", not onnx_problems, extra_detail("onnx", onnx_problems, "ONNX Runtime")),
        Capability("runtime coreml", mac, "Core ML itself" if mac else "needs macOS"),
        Capability("train", not train_problems, extra_detail("train", train_problems, f"on {accelerator()}")),
        Capability("iOS harness: kit and its tests", swift is not None, swift or "needs a Swift toolchain"),
        Capability(
            "iOS harness: device tests",
            xcodebuild is not None,
            xcodebuild or "needs Xcode on macOS and a connected iPhone",
        ),
    ]


def extra_detail(extra: str, problems: list[str], detail: str) -> str:
    """What an extra gives, or what is missing and how to get it."""
    return f"needs {', '.join(problems)}: pip install 'sfmobile[{extra}]'" if problems else detail


def accelerator() -> str:
    """The device torch would train on."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return "Apple GPU (MPS)"
    return f"CPU, {torch.get_num_threads()} threads"


def free_memory() -> int:
    """Bytes of memory that could be used without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def free_disk(path: Path) -> int:
    """Bytes free where `path` is or would be."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def as_json(
    machine: MachineRecord,
    requirements: list[Requirement],
    capabilities: list[Capability],
    memory_free: int,
    disk_free: int,
) -> dict[str, Any]:
    """The result as JSON; keys are stable."""
    import platform

    import sfmobile

    return {
        "sfmobile": sfmobile.__version__,
        "python": platform.python_version(),
        "machine": machine.model_dump(mode="json"),
        "memory_free_bytes": memory_free,
        "disk_free_bytes": disk_free,
        "packages": [vars(requirement) for requirement in requirements],
        "capabilities": [vars(capability) for capability in capabilities],
    }


def print_tables(
    machine: MachineRecord,
    requirements: list[Requirement],
    capabilities: list[Capability],
    memory_free: int,
    disk_free: int,
) -> None:
    """The result for people."""
    import platform

    import sfmobile

    disk = in_bytes(disk_free)
    if disk_free < DISK_FOR_FULL_SIZE:
        disk += f" (a full-size checkpoint wants {in_bytes(DISK_FOR_FULL_SIZE)})"
    model = f"{machine.model}, " if machine.model else ""
    console.print_table(
        f"sfmobile {sfmobile.__version__} on Python {platform.python_version()}",
        ("machine", ""),
        (
            ("hardware", f"{model}{machine.processor} ({machine.architecture}), {machine.cores} cores"),
            ("operating system", machine.os),
            ("memory", f"{in_bytes(machine.memory_bytes)}, {in_bytes(memory_free)} free"),
            ("disk", f"{disk} free"),
        ),
        text_columns=(0, 1),
    )
    console.print_table(
        "What it can do",
        ("", "", "how, or what is missing"),
        ((row.name, "yes" if row.available else "no", row.detail) for row in capabilities),
        text_columns=(0, 1, 2),
    )
    console.print_table(
        "Packages",
        ("package", "installed", "asked", ""),
        ((row.name, row.installed or "-", row.asked, row.problem or "ok") for row in requirements),
        text_columns=(0, 1, 2, 3),
    )
