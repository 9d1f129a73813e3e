"""Every writer, stopped at each of its file operations: the old file or the new one, and a rerun that ends as ever.

Bundles have theirs in tests/bundle/test_store.py, trainings in tests/train/test_kill.py.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sfmobile.evaluate.report import EvaluationRecord
from sfmobile.train import archives
from sfmobile.train.archives import Archive
from sfmobile.train.data import sprites
from sfmobile.train.evolve import evolution
from sfmobile.train.pretrained import packages
from sfmobile.train.state import save_tensors
from tests.crash import crash_points
from tests.test_writers import WRITERS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@dataclass(frozen=True)
class Work:
    """write: to a folder. hold: raises unless the folder is as it may be after a stop, or before. done: what stands
    there when it is through."""

    write: Callable[[Path], object]
    hold: Callable[[Path], object]
    done: tuple[str, ...]


def _record(folder: Path) -> None:
    EvaluationRecord(made={"on": "a"}, judge={}).write(folder / "evaluation.json")


def _record_is_none_or_whole(folder: Path) -> None:
    if (folder / "evaluation.json").exists():
        assert EvaluationRecord.read(folder / "evaluation.json").made == {"on": "a"}


PIXELS = np.ones((1, 4, 2, 2), np.uint8)


def _sprites(folder: Path) -> None:
    sprites._write(folder / "sprites.json", PIXELS, [], ())


def _sprites_are_none_or_whole(folder: Path) -> None:
    if sprites._is_complete(folder / "sprites.json"):
        np.testing.assert_array_equal(load_file(folder / "sprites.safetensors")["pixels"], PIXELS)


def _converted(folder: Path) -> None:
    path = folder / "weights.safetensors"
    if not packages.is_whole(path):
        save_tensors(path, {"a": torch.ones(3)})
        packages.record(path)


def _converted_are_none_or_whole(folder: Path) -> None:
    path = folder / "weights.safetensors"
    if packages.is_whole(path):
        np.testing.assert_array_equal(load_file(path)["a"], np.ones(3, np.float32))


ARCHIVE = Archive("pypi", "thing", "1.0", "thing.whl", f"sha256:{hashlib.sha256(b'pinned').hexdigest()}")


def _fetched(folder: Path) -> None:
    archives._ask_client = lambda archive, scratch, by_hand: (scratch / archive.filename).write_bytes(b"pinned")
    archives.fetch(ARCHIVE, folder, "bring it by hand")


def _fetched_is_none_or_whole(folder: Path) -> None:
    assert not (folder / "thing.whl").exists() or ARCHIVE.is_at(folder / "thing.whl")


def _decisions(folder: Path) -> None:
    path = folder / "decisions.jsonl"
    for number in range(2):
        if number not in [entry["round"] for entry in evolution.read_decisions(folder)]:
            evolution._append(path, {"round": number})


def _decisions_are_whole(folder: Path) -> None:
    assert [entry["round"] for entry in evolution.read_decisions(folder)] in ([], [0], [0, 1])


WORKS: dict[str, Work] = {
    "evaluation": Work(_record, _record_is_none_or_whole, ("evaluation.json",)),
    "sprite cache": Work(_sprites, _sprites_are_none_or_whole, ("sprites.json", "sprites.safetensors")),
    "converted weights": Work(
        _converted, _converted_are_none_or_whole, ("weights.safetensors", "weights.safetensors.sha256")
    ),
    "fetched archive": Work(_fetched, _fetched_is_none_or_whole, ("thing.whl",)),
    "evolution's decisions": Work(_decisions, _decisions_are_whole, ("decisions.jsonl",)),
}


@pytest.mark.parametrize("name", WORKS)
def test_work_that_is_stopped_anywhere_leaves_nothing_half_and_is_done_by_a_rerun(name: str, tmp_path: Path) -> None:
    work = WORKS[name]
    ends = crash_points(tmp_path, lambda folder: None, work.write)
    assert len(ends) >= 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "_ask_client", archives._ask_client)
        for end in ends:
            work.hold(end.folder)
            work.write(end.folder)
            work.hold(end.folder)
            assert sorted(path.name for path in end.folder.iterdir()) == sorted(work.done), end


# Their drawing takes a second; all figures are written by the same function.
DRAWN = ("plot of times", "plot of sizes", "plot of a log", "plot of an evolution")


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {*DRAWN}))
def test_a_file_is_the_old_one_or_the_new_one_wherever_its_writer_is_stopped(name: str, tmp_path: Path) -> None:
    file, write = WRITERS[name]
    ends = crash_points(tmp_path, lambda folder: (folder / file).write_text("old"), lambda folder: write(folder / file))
    assert len(ends) >= 3
    for end in ends:
        content = (end.folder / file).read_bytes()
        assert content == b"old" or len(content) > 20, end
        write(end.folder / file)
        assert (end.folder / file).stat().st_size > 20, end
        assert [path.name for path in end.folder.iterdir()] == [file], end
