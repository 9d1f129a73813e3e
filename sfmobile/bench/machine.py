"""What machine a figure comes from: model, processor, cores, memory, operating system."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from sfmobile.bench.records import MachineRecord

# The packages whose version can change a figure or a result.
TOOLS = ("sfmobile", "torch", "coremltools", "numpy", "diffusers", "transformers", "onnx", "onnxruntime")


def describe_machine() -> MachineRecord:
    """The machine this process runs on. Cores are those this process may use, not those that exist."""
    import psutil

    return MachineRecord(
        model=_model(),
        processor=_processor(),
        architecture=platform.machine(),
        cores=usable_cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        os=_operating_system(),
    )


def tool_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages among `TOOLS`, read without importing them."""
    versions = {"python": platform.python_version()}
    versions.update((name, version) for name in TOOLS if (version := installed_version(name)) is not None)
    return versions


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Logical cores the scheduler may give this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sysctl(key: str) -> str | None:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _model() -> str | None:
    """E.g. "MacBookPro18,3"; boards and virtual machines name themselves on Linux, or don't."""
    if platform.system() == "Darwin":
        return _sysctl("hw.model")
    try:
        return Path("/sys/class/dmi/id/product_name").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _processor() -> str:
    """E.g. "Apple M1 Pro" or "AMD EPYC 9R14"."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.lower().startswith("model name") and ":" in line:
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _operating_system() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if platform.system() == "Linux":
        try:
            pretty = platform.freedesktop_os_release().get("PRETTY_NAME", "")
        except OSError:
            pretty = ""
        return f"{pretty or 'Linux'} (kernel {platform.release()})"
    return f"{platform.system()} {platform.release()}"
