"""`sfmobile doctor`: versions, what this machine can do, and what is missing for the rest."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.cli import console
from sfmobile.cli.requirements import Requirement, check_requirements
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


def doctor(
    path: Annotated[
        Path, typer.Option("--path", help="Where bundles would be written: its free space is what counts.")
    ] = Path(),
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of tables.")] = False,
) -> None:
    """Say what this machine can do, with which versions, and what is missing.

    Exits with 3 if a required package is missing, or an installed one broken or outside its range.
    """
    from sfmobile.bench.machine import describe_machine

    with console.status("Looking at this machine"):
        machine = describe_machine()
        required, computing = check_requirements(), check_requirements("torch")
        capabilities = find_capabilities()
        memory_free, disk_free = free_memory(), free_disk(path)
    requirements = required + computing
    problems = [row for row in requirements if row.problem and (row in required or row.installed)]
    if json_output:
        console.print_json(as_json(machine, requirements, capabilities, memory_free, disk_free))
    else:
        print_tables(machine, requirements, capabilities, memory_free, disk_free)
    if problems:
        from sfmobile.errors import UnavailableError

        names = ", ".join(f"{problem.name} ({problem.problem})" for problem in problems)
        raise UnavailableError(f"Required packages don't fit: {names}; install sfmobile again in a clean environment.")


def find_capabilities() -> list[Capability]:
    """What the tool does, one row each."""
    mac = sys.platform == "darwin"
    swift, xcodebuild = shutil.which("swift"), shutil.which("xcodebuild")
    return [
        of_extra("export to Core ML", "torch", "torch and coremltools"),
        of_extra("runtime mil", "torch", "executes exported ML Programs with torch, fp32 or fp16 evaluation"),
        of_extra("runtime torch", "torch", "the reference networks; needs the source checkpoint"),
        of_extra("runtime onnx", "onnx", "ONNX Runtime"),
        core_ai(),
        of_extra("runtime coreml", "torch", "Core ML itself")
        if mac
        else Capability("runtime coreml", False, "needs macOS"),
        of_extra("train", "train", f"on {accelerator()}"),
        Capability("iOS harness: kit and its tests", swift is not None, swift or "needs a Swift toolchain"),
        Capability(
            "iOS harness: device tests",
            xcodebuild is not None,
            xcodebuild or "needs Xcode on macOS and a connected iPhone",
        ),
    ]


def of_extra(name: str, extra: str, detail: str) -> Capability:
    """What an extra gives, or what is missing and how to get it."""
    problems = [row.name for row in check_requirements(extra) if row.problem]
    if problems:
        return Capability(name, False, f"needs {', '.join(problems)}: pip install 'sfmobile[{extra}]'")
    return Capability(name, True, detail)


def core_ai() -> Capability:
    """Apple's package in the one version that is read, or why it isn't here; it isn't for every system."""
    from sfmobile.errors import UnavailableError
    from sfmobile.runtime.coreai import library

    try:
        library.require()
    except UnavailableError as error:
        return Capability("runtime coreai", False, str(error).rstrip("."))
    return Capability("runtime coreai", True, "Apple's operators, and --format coreai (experimental)")


def accelerator() -> str:
    """The device torch would train on; "" without torch."""
    try:
        import torch
    except ImportError:
        return ""

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


def find_models() -> str:
    """Where the models that come with sfmobile are, or why they aren't found."""
    from sfmobile.errors import UnavailableError
    from sfmobile.models import models_folder

    try:
        return str(models_folder())
    except UnavailableError as error:
        return str(error)


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
        "models": find_models(),
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
            ("models", find_models()),
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
