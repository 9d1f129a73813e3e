"""Packages that can be called are packages all the same."""

from __future__ import annotations

import pickle
import pydoc
import subprocess
import sys

import pytest

import sfmobile
from sfmobile.errors import UsageError

ROOMS = ("bench", "compress", "export", "inspect", "page", "verify")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", ROOMS)
def test_help_of_a_room_shows_its_function(name: str) -> None:
    text = pydoc.render_doc(getattr(sfmobile, name), renderer=pydoc.plaintext)
    assert f"{name}(" in text and "observer" in text and "Raises `" in text


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_is_the_same_however_it_is_imported(name: str) -> None:
    order = (
        f"import sfmobile; first = sfmobile.{name}",
        f"import sfmobile.{name} as first",
        f"from sfmobile import {name} as first",
    )
    for line in order:
        script = f"{line}\nimport sfmobile\nassert first is sfmobile.{name} and callable(first)\nprint(first.__name__)"
        assert run(script) == f"sfmobile.{name}"


def test_a_room_stays_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sfmobile.export.options as options
    from sfmobile.export.options import ExportOptions

    assert sfmobile.export.options is options and options.ExportOptions is ExportOptions  # type: ignore[attr-defined]
    monkeypatch.setattr("sfmobile.export.options.MOST_CHUNKS", 2)
    with pytest.raises(UsageError, match="expected 1 to 2"):
        ExportOptions(chunks=3)
    assert pickle.loads(pickle.dumps(ExportOptions(bits=4))) == ExportOptions(bits=4)
    assert pickle.loads(pickle.dumps(sfmobile.export)) is sfmobile.export
    with pytest.raises(AttributeError, match=r"module 'sfmobile\.export' has no attribute 'imported'"):
        sfmobile.export.imported  # type: ignore[attr-defined]  # noqa: B018
