"""pyproject.toml declares what is imported, and nothing that isn't."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tiny import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OURS = {"sfmobile", "tests", "benchmarks", "docs"}
# Declared although no file imports them, and why.
IMPORTED_BY_OTHERS = {"onnxscript": "torch.onnx.export(dynamo=True)"}
TOOLS = {"build", "hatchling", "mkdocs-material", "mypy", "pytest-xdist", "ruff"}


def names(lines: list[str]) -> set[str]:
    """Distributions that requirement lines name, but for ourselves, by whom extras are made of extras."""
    return {canonicalize_name(Requirement(line).name) for line in lines} - {"sfmobile"}


CORE = names(PROJECT["dependencies"])
PACKAGE = CORE.union(*(names(lines) for extra, lines in EXTRAS.items() if extra != "dev"))


def third_party(*folders: str) -> dict[str, set[str]]:
    """Top-level modules of other people that the files of `folders` import, at any depth, and which files do."""
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")):
        # A script also imports the files beside it.
        beside = {other.stem for other in path.parent.glob("*.py")}
        for module in imports(path):
            if module not in sys.stdlib_module_names and module not in OURS and module not in beside:
                found.setdefault(module, set()).add(str(path.relative_to(REPOSITORY)))
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        yield from (module.split(".")[0] for module in modules)


@cache
def installed() -> Mapping[str, list[str]]:
    """Distributions by the modules they install; reading all of them takes a second."""
    return packages_distributions()


def distributions(module: str) -> set[str]:
    """Those that install `module`; a module that isn't installed counts as called like its distribution."""
    return {canonicalize_name(name) for name in installed().get(module, [module])}


@pytest.mark.parametrize(
    ("folders", "declared"),
    [(("sfmobile",), PACKAGE), (("tests", "benchmarks", "docs"), PACKAGE | names(EXTRAS["dev"]))],
    ids=["the package", "tests, benchmarks and docs"],
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], declared: set[str]) -> None:
    undeclared = {
        module: files for module, files in third_party(*folders).items() if not distributions(module) & declared
    }
    # tomli is pytest's own dependency, where it is needed at all.
    undeclared.pop("tomli", None)
    assert not undeclared


def test_what_is_declared_is_imported() -> None:
    imported = set().union(*(distributions(module) for module in third_party("sfmobile")))
    assert PACKAGE - imported == set(IMPORTED_BY_OTHERS)
    developing = set().union(*(distributions(module) for module in third_party("tests", "benchmarks", "docs")))
    assert names(EXTRAS["dev"]) - developing == TOOLS


def test_nothing_is_declared_twice() -> None:
    """Each distribution in one place: its range is written once, extras are made of extras."""
    lists = [names(PROJECT["dependencies"]), *(names(lines) for lines in EXTRAS.values())]
    assert sum(map(len, lists)) == len(set().union(*lists))


def test_all_is_all() -> None:
    (line,) = EXTRAS["all"]
    assert Requirement(line).extras == set(EXTRAS) - {"all", "dev"}
