from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sfmobile.cli.train_data import data
from sfmobile.errors import UsageError
from sfmobile.train.data import packages
from sfmobile.train.data.packages import Package, read_sources
from tests.train.data.conftest import index, tarballs  # noqa: F401

Tarballs = tuple[Path, tuple[Package, ...]]


@pytest.fixture
def pins(tarballs: Tarballs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The directory of test tarballs, pinned in place of the real packages."""
    path = tmp_path / "packages.json"
    path.write_text(json.dumps({"packages": [dataclasses.asdict(pin) for pin in tarballs[1]]}))
    monkeypatch.setattr(packages, "PINS", path)
    return tarballs[0]


def _run(*arguments: str):
    app = typer.Typer()
    app.command()(data)
    return CliRunner().invoke(app, [*arguments, "--workers", "1"])


def test_tarballs_become_a_cache_a_sheet_and_a_pack_in_one_command(pins: Path, tmp_path: Path):
    sheet, packed = tmp_path / "sheet.png", tmp_path / "sources.tar.xz"
    result = _run(
        "--packages", str(pins), "--cache", str(tmp_path / "cache"),
        "--sheet", str(sheet), "--pack", str(packed), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert sum(counts["sprites"] for counts in summary["styles"].values()) == 5 * 11
    assert all(
        counts["sprites"] == counts["train"] + counts["judge"] + counts["held_out"]
        for counts in summary["styles"].values()
    )
    assert {pin["licence"] for pin in summary["packages"]} == {"MIT", "Apache-2.0"}
    assert Image.open(sheet).size[0] > 8 * 128
    assert read_sources(packed) == read_sources(pins)
    # The packed archive alone gives the same cache.
    again = _run("--packages", str(packed), "--cache", str(tmp_path / "other"), "--json")
    first, second = Path(summary["index"]), Path(json.loads(again.stdout)["index"])
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


def test_the_table_names_every_style_and_licence(pins: Path, tmp_path: Path):
    result = _run("--packages", str(pins), "--cache", str(tmp_path / "cache"))
    assert all(word in result.stdout for word in ("3d", "glossy", "flat", "cartoon", "retro", "Apache-2.0", "MIT"))


def test_sources_that_are_not_there_are_a_usage_error(pins: Path, tmp_path: Path):
    result = _run("--packages", str(tmp_path / "nowhere"), "--cache", str(tmp_path / "cache"))
    assert isinstance(result.exception, UsageError)
