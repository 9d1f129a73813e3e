from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UnavailableError
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.inspect.estimate.plot import plot_times
from sfmobile.inspect.estimate.times import DeviceTime, Part, device_time
from sfmobile.mlpackage.program import load_program


@pytest.fixture(scope="module")
def report(tiny_bundle: Bundle) -> DeviceTime:
    parts = [Part(name, (load_program(tiny_bundle.package(name)),), 1) for name in tiny_bundle.manifest.components]
    return device_time(parts, device_table().find("iphone-14-pro"), rate_basis="tests")


def test_a_plot_names_device_components_blocks_and_budget(report: DeviceTime, tmp_path: Path) -> None:
    plot_times(report, tmp_path / "times.svg")
    # Text is drawn as shapes, with what it says in a comment beside it.
    drawn = (tmp_path / "times.svg").read_text()
    for words in ("iPhone 14 Pro (A16)", "estimated", "unet", "budget 2 s", "d0.a0", "resampling"):
        assert words in drawn


def test_a_plot_is_a_picture(report: DeviceTime, tmp_path: Path) -> None:
    plot_times(report, tmp_path / "times.png")
    assert Image.open(tmp_path / "times.png").size[0] >= 1000


def test_without_matplotlib_the_extra_is_named(
    report: DeviceTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnavailableError, match=r"pip install 'sfmobile\[plot\]'"):
        plot_times(report, tmp_path / "times.png")
