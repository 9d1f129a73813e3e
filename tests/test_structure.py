"""The rules that hold the packages together: imports go down the floors only, and start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sfmobile
from docs.house import floors, imported

ROOT = Path(sfmobile.__file__).parent
# Lowest first, by the table of docs/house.md: a room may import what stands before it.
FLOORS = floors()
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
# What works on packages as data, above their own room.
PACKAGE_WORK = ("chunk", "multifunction", "stored_weights", "footprint")
MODULES = sorted(ROOT.rglob("*.py"))


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return FLOORS.index(parts[1]) if parts[0] == "sfmobile" and len(parts) > 1 and parts[1] in FLOORS else None


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    assert rooms == {*FLOORS, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    own = room_of(path)
    if own == "__init__":
        return
    floors = {name: floor_of(name) for name in imported(path)}
    upward = {name for name, floor in floors.items() if floor is not None and floor > FLOORS.index(own)}
    assert not upward, f"{own} may only import the floors below it"


# Where a component's name is what is meant: a file's or a folder's, a spec's own, a bundle's of version 1.
NAMES_COMPONENTS = ("train", "checkpoint", "evaluate", "testing")


def test_no_components_name_decides_anything() -> None:
    """What a component is for, the pipeline's description and its spec say, so that another one changes no code."""
    names = {"text_encoder", "text_encoder_2", "unet", "encoder", "decoder"}
    found = []
    for path in MODULES:
        if room_of(path) in NAMES_COMPONENTS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            values: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                values = [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                values = node.args if node.func.attr in ("get", "startswith", "component", "load", "package") else []
            elif isinstance(node, ast.Subscript):
                values = [node.slice]
            elif isinstance(node, ast.For):
                values = list(ast.walk(node.iter))  # type: ignore[arg-type]
            found += [
                f"{path.relative_to(ROOT)}:{value.lineno}: {value.value}"
                for value in values
                if isinstance(value, ast.Constant) and value.value in names
            ]
    assert not found


def test_nothing_imports_in_a_circle() -> None:
    """In every folder: its files, and each folder in it as one, depend on each other in one direction."""
    dotted = {path: ".".join(("sfmobile", *path.relative_to(ROOT).with_suffix("").parts)) for path in MODULES}
    files = {name.removesuffix(".__init__"): path for path, name in dotted.items()}
    reached: dict[Path, set[Path]] = {}
    for path in MODULES:
        for name in imported(path):
            other = files.get(name)
            if other is None or other == path:
                continue
            # The two children of their nearest common folder, between which this import runs.
            ours, theirs = path.relative_to(ROOT).parts, other.relative_to(ROOT).parts
            shared = next(index for index, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two)
            above = ROOT.joinpath(*ours[:shared])
            reached.setdefault(above / ours[shared], set()).add(above / theirs[shared])
            reached.setdefault(above / theirs[shared], set())
    # What can be taken away, again and again, because nothing left is below it, is in no circle.
    while free := [node for node, below in reached.items() if not below & set(reached)]:
        for node in free:
            del reached[node]
    assert not {str(node.relative_to(ROOT)) for node in reached}


@pytest.mark.parametrize("path", sorted((ROOT / "bundle").rglob("*.py")), ids=lambda path: path.name)
def test_the_bundle_needs_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "coremltools", "diffusers", "transformers"}


def test_packages_are_read_without_torch_and_without_loading_coremltools() -> None:
    """Modules of `mlpackage` and those that cut, merge and weigh packages: imported for real, in a fresh process."""
    rooms = [*(ROOT / "mlpackage").rglob("*.py"), *(ROOT / "export" / f"{name}.py" for name in PACKAGE_WORK)]
    names = [".".join(("sfmobile", *path.relative_to(ROOT).with_suffix("").parts)) for path in rooms]
    script = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name.removesuffix('.__init__'))\n"
        "from sfmobile.mlpackage import schema\n"
        "schema.model().Model(), schema.mil().Program()\n"
        "print(sorted({'torch', 'coremltools'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
