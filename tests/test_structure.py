"""The rules that hold the packages together: imports go down the floors only, and start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sfmobile

ROOT = Path(sfmobile.__file__).parent
FLOORS = ("bundle", "nets", "checkpoint", "compress", "export", "runtime", "sampling", "profile", "train", "cli")
HEAVY = (
    "torch",
    "coremltools",
    "diffusers",
    "transformers",
    "onnx",
    "onnxruntime",
    "numba",
    "PIL",
    "numpy",
    "pydantic",
)
MODULES = sorted(ROOT.rglob("*.py"))


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Modules a file imports; only at import time (not inside functions or for type checkers) unless `everywhere`."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, f"{path}: a relative import hides which floor it reaches"
            names.update({base} | {f"{base}.{alias.name}" for alias in node.names})
        if not everywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if not everywhere and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return FLOORS.index(parts[1]) if parts[0] == "sfmobile" and len(parts) > 1 and parts[1] in FLOORS else None


def test_every_package_has_a_floor() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    if own not in FLOORS:
        reached = {name for name in imported(path) if floor_of(name) is not None}
        assert not reached or path.name == "__main__.py", f"{path.name} lies below every floor"
        return
    upward = {name for name in imported(path) if (floor_of(name) or 0) > FLOORS.index(own)}
    assert not upward, f"{own} may only import the floors below it"


@pytest.mark.parametrize("path", sorted((ROOT / "bundle").rglob("*.py")), ids=lambda path: path.name)
def test_the_bundle_needs_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "coremltools", "diffusers", "transformers"}


@pytest.mark.parametrize("path", sorted((ROOT / "cli").rglob("*.py")), ids=lambda path: path.name)
def test_commands_import_nothing_heavy_before_they_run(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path, everywhere=False)} & set(HEAVY)


def test_help_loads_no_heavy_package() -> None:
    script = (
        "import sys\n"
        "from sfmobile.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "verify" in done.stdout and "generate" in done.stdout
