"""The example notebook, executed cell by cell as a kernel would."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from sfmobile.checkpoint.directory import Checkpoint
from tests.tiny import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "first_picture.ipynb"


def execute(cell: str, names: dict[str, Any]) -> object:
    """Run a cell's statements; the value of its last one, if that is an expression."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return (
        eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if isinstance(last, ast.Expr) else None
    )


@pytest.fixture
def tiny_model(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch) -> None:
    """A tiny model in place of the built-in one, and a folder of its own to work in."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "glyph").symlink_to(tiny_checkpoint.root)
    (tmp_path / "models" / "recipes").symlink_to(REPOSITORY / "models" / "recipes")
    monkeypatch.setenv("SFMOBILE_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)


def test_every_cell_runs_and_shows_what_it_promises(tiny_model: None, capsys) -> None:
    matplotlib.use("Agg")
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in content["cells"]), "clear the outputs before committing"
    names: dict[str, Any] = {}
    shown = [execute("".join(cell["source"]), names) for cell in content["cells"] if cell["cell_type"] == "code"]
    out, _ = capsys.readouterr()
    assert "on iPhone 12 (A14, 4 GB)" in out and "unet" in out
    picture, chart, page = (value for value in shown if value is not None)
    assert picture._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert isinstance(chart, matplotlib.figure.Figure) and len(chart.axes[0].patches) == 8
    assert page._repr_html_().startswith("<iframe srcdoc=")  # type: ignore[attr-defined]
