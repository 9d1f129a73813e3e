"""What sfmobile declares to need, against what is installed; which extra brings a package that isn't."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement as Declared

OURSELVES = "sfmobile"
# Compiled ones, which can break; pure Python breaks less and costs as much time to import.
COMPILED = ("torch", "coremltools", "numpy", "onnx", "safetensors")


@dataclass(frozen=True)
class Requirement:
    """A declared dependency: what is asked, what is installed, what is wrong with it (None: nothing)."""

    name: str
    asked: str
    installed: str | None
    problem: str | None


def check_requirements(extra: str = "") -> list[Requirement]:
    """The package's declared dependencies, or those that one extra adds, against what is installed.

    Compiled ones are imported too: that is what can break.
    """
    from sfmobile.bench.machine import installed_version

    found: list[Requirement] = []
    for declared in declared_requirements(extra):
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
    """Why a compiled package can't be imported, or None."""
    if package not in COMPILED:
        return None
    try:
        importlib.import_module(package)
    except (ImportError, OSError) as error:
        return f"can't be imported: {error}"
    return None


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """What to install, in a sentence, if `error` is about a package that sfmobile declares and isn't installed."""
    from importlib import metadata

    from packaging.utils import canonicalize_name

    # In the extras a distribution has the name of its module, but for pillow.
    module = (error.name or "").split(".")[0]
    missing = canonicalize_name({"PIL": "pillow"}.get(module, module))
    try:
        extras = metadata.metadata(OURSELVES).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return None
    declared = {extra: {canonicalize_name(one.name) for one in declared_requirements(extra)} for extra in ("", *extras)}
    bringing = [extra for extra, names in declared.items() if missing in names]
    if not bringing:
        return None
    # Extras are made of extras: the smallest is the one that is about this package.
    extra = "" if "" in bringing else min(bringing, key=lambda extra: len(declared[extra]))
    what = f"{OURSELVES}[{extra}]" if extra else OURSELVES
    return f"This needs {missing}, which isn't installed; run pip install '{what}'."


def declared_requirements(extra: str = "") -> list[Declared]:
    """What every installation has ("" for `extra`), or what one extra adds."""
    from importlib import metadata

    from packaging.requirements import Requirement as Declared

    lines = [Declared(line) for line in metadata.requires(OURSELVES) or []]
    fitting = [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]
    return [line for line in fitting if line.marker is not None] if extra else fitting
