"""What the lower rooms write: whole or not at all, never through a link, never over a device."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sfmobile.bench.records import ProducerRecord
from sfmobile.bench.report import write_report
from sfmobile.compress.recipe import Recipe
from sfmobile.errors import UsageError
from sfmobile.inspect.estimate.measured import DeviceFactors
from sfmobile.inspect.estimate.plot import plot_times
from sfmobile.inspect.estimate.times import BlockTime, ComponentTime, DeviceTime
from sfmobile.inspect.lint.sarif import write_sarif
from sfmobile.inspect.lookup.block_keys import BlockOptions
from sfmobile.inspect.lookup.table import LookupTable
from sfmobile.inspect.operations.compute_plan import ComputePlan
from sfmobile.page import rendering as page
from sfmobile.recipes.plot import plot_sizes
from sfmobile.sampling.picture import Picture
from sfmobile.train.curve import plot_log
from sfmobile.train.evolve import plot as evolution_plot
from tests.bench.sample import bench
from tests.tiny import TINY_UNET

NOW = datetime.now(timezone.utc)


def factors(path: Path) -> None:
    DeviceFactors(created_at=NOW, device="a phone", factors={"unet": 2.0}, sources=("a",)).write(path)


def table(path: Path) -> None:
    LookupTable(
        created_at=NOW,
        producer=ProducerRecord(),
        label="measured",
        runtime="a clock",
        device=None,
        machine=None,
        options=BlockOptions(),
        overhead_ms=0.0,
        entries=(),
    ).write(path)


def plan(path: Path) -> None:
    ComputePlan(package="a", machine="a Mac", compute_unit="ALL", operations=()).write(path)


def times(path: Path) -> None:
    block = BlockTime(block="mid_block", milliseconds=1.0, share=1.0, arithmetic=1.0, memory=0.0, cpu=0.0)
    component = ComponentTime(
        component="unet",
        calls=1,
        call_ms=1.0,
        picture_ms=1.0,
        basis="estimated",
        source="a",
        dispatches=1,
        blocks=(block,),
        off_engine={},
    )
    report = DeviceTime(
        device="phone",
        device_name="a phone",
        chip="A",
        rate_basis="",
        label="",
        budget_ms=1.0,
        picture_ms=1.0,
        components=(component,),
    )
    plot_times(report, path)


def sizes(path: Path) -> None:
    point: Any = SimpleNamespace(bytes=1, label="6", measured=SimpleNamespace(final_db=30.0))
    result: Any = SimpleNamespace(component="unet", final="latents", point=point, uniform=(point,), curve=(point,))
    plot_sizes([result], path, "a")


def write_page(path: Path) -> None:
    page.write_page("<p>" * 1000, path)


def curve(path: Path) -> None:
    log = path.parent / "log.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5, "gradient_norm": null}\n')
    try:
        plot_log(log, path)
    finally:
        log.unlink()


def evolution(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evolution_plot, "read_path", lambda root: [("supernet", TINY_UNET, 2.0, 0.1)])
        patch.setattr(evolution_plot, "read_decisions", lambda root: [{"target_ms": 1.0}])
        evolution_plot.plot_path(path.parent, path)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "recipe": ("a.json", lambda path: Recipe.uniform(6).write(path)),
    "report": ("a.json", lambda path: write_report(bench(), path)),
    "device factors": ("a.json", factors),
    "lookup table": ("a.json", table),
    "compute plan": ("a.json", plan),
    "findings": ("a.sarif", lambda path: write_sarif([], {}, path)),
    "picture": ("a.png", lambda path: Picture(np.zeros((2, 2, 3), np.uint8)).save(path)),
    "page": ("a.html", write_page),
    "plot of times": ("a.png", times),
    "plot of sizes": ("a.svg", sizes),
    "plot of a log": ("a.png", curve),
    "plot of an evolution": ("a.png", evolution),
}
# They make the folder they write to.
MAKE_FOLDERS = ("report", "lookup table", "page", "plot of an evolution")


@pytest.fixture(params=list(WRITERS))
def writer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def _without_waiting() -> Iterator[None]:
    """A writer that waits for the other end of a pipe is ended."""

    def ended(*_: object) -> None:
        raise AssertionError("the writer waited")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_link_is_replaced_and_nothing_else_is_left(writer: str, tmp_path: Path) -> None:
    name, write = WRITERS[writer]
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").write_text("mine")
    (folder / name).symlink_to(tmp_path / "outside")
    write(folder / name)
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (folder / name).is_symlink() and (folder / name).stat().st_size > 0
    assert [path.name for path in folder.iterdir()] == [name]


def test_what_breaks_off_leaves_the_old_file(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write = WRITERS[writer]
    (tmp_path / name).write_text("old")

    def killed(draft: Path, target: Path) -> Path:
        assert draft.stat().st_size > 0 and target.read_text() == "old"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / name)
    assert (tmp_path / name).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("_without_waiting")
def test_a_pipe_is_neither_waited_for_nor_replaced(writer: str, tmp_path: Path) -> None:
    name, write = WRITERS[writer]
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match=r"can't be written .it is no regular file.; choose another place"):
        write(tmp_path / name)
    assert (tmp_path / name).is_fifo()


def test_a_folder_that_is_missing_is_made_or_named(writer: str, tmp_path: Path) -> None:
    name, write = WRITERS[writer]
    path = tmp_path / "missing" / "further" / name
    if writer == "plot of a log":
        pytest.skip("its log lies in the same folder")
    if writer in MAKE_FOLDERS:
        write(path)
        assert path.stat().st_size > 0
        return
    with pytest.raises(UsageError, match="can't be written") as refusal:
        write(path)
    assert f"'{path}'" in str(refusal.value)
