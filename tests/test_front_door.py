"""What a notebook finds behind `import sfmobile`: light to import, documented, typed, and the README's lines work."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.sampling.picture import Picture
from tests.test_structure import HEAVY
from tests.tiny import REPOSITORY

ROOMS = ("bench", "compress", "export", "inspect", "page", "verify")
FUNCTIONS = (*ROOMS, "compare", "estimate", "open_checkpoint", "search_recipe")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_it_imports_nothing_heavy() -> None:
    assert run(f"import sys, sfmobile; print(sorted({set(HEAVY)!r} & set(sys.modules)))") == "[]"


def test_importing_it_takes_less_than_50_ms() -> None:
    script = "import time; start = time.process_time(); import sfmobile; print(time.process_time() - start)"
    assert min(float(run(script)) for _ in range(3)) < 0.05


def test_all_that_is_offered_is_there_and_listed() -> None:
    assert set(sfmobile.__all__) <= set(dir(sfmobile))
    for name in sfmobile.__all__:
        assert getattr(sfmobile, name) is not None
    assert set(sfmobile.OFFERED) | {"errors"} == set(sfmobile.__all__)
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        sfmobile.paint  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_typed_and_take_options_by_keyword(name: str) -> None:
    function: Any = getattr(sfmobile, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    described = inspect.getdoc(function) or ""
    assert "Raises `" in described
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "observer":
            assert re.search(rf"\b{parameter.name}\b", described), f"{parameter.name} isn't explained"


def test_the_readmes_lines_run(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch, capsys) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## From Python\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "checkpoint").symlink_to(tiny_checkpoint.root)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    out, _ = capsys.readouterr()
    assert "against torch fp32" in out and "unet" in out
    assert isinstance(names["bundle"], Bundle) and (tmp_path / "out" / "bundle" / "manifest.json").is_file()
    assert isinstance(names["picture"], Picture) and names["picture"]._repr_png_()[:4] == b"\x89PNG"
