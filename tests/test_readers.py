"""Every file of JSON that the lower rooms read, broken in every way: one sentence that names it, at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sfmobile.bench import xcresult
from sfmobile.bench.report import BenchReport, read_report, report_kind
from sfmobile.bench.verify_report import VerifyReport
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.config import read_config
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.scheduler import read_sampler
from sfmobile.checkpoint.tokenizer import read_merges, read_vocabulary
from sfmobile.compress.recipe import Recipe
from sfmobile.errors import SfmobileError
from sfmobile.export import footprint
from sfmobile.inspect.estimate import cost, devices
from sfmobile.inspect.estimate.measured import DeviceFactors
from sfmobile.inspect.lint import rule
from sfmobile.inspect.lookup.table import read_table
from sfmobile.inspect.lookup.timers import RecordedTimer
from sfmobile.inspect.operations.compute_plan import read_plan
from tests.tiny import TOKENIZER_DIR

PHONE = devices.device_table().find("iphone-14-pro")


@dataclass(frozen=True)
class Reader:
    """How a file is read, where it stands, and what the sentence names (the file, or the folder that is opened)."""

    read: Callable[[Path], Any]
    place: str = "file.json"
    named: Callable[[Path], Path] = lambda path: path


def shipped(module: Any, constant: str, read: Any) -> Callable[[Path], Any]:
    """Read a data file of sfmobile's own from another place than the one that the module's constant names."""

    def read_from(path: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, constant, path)
            return read.__wrapped__()

    return read_from


def attachments(path: Path) -> list[Path]:
    """The reports of a result whose description, as Xcode's tool exported it, is `path`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: name)
        patch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
        return list(xcresult.exported_reports(Path("run.xcresult"), path.parent))


def a_folder_up(path: Path) -> Path:
    return path.parent


READERS: dict[str, Reader] = {
    "manifest": Reader(lambda path: Bundle.open(path.parent), "manifest.json", a_folder_up),
    "model index": Reader(lambda path: Checkpoint.open(path.parent), "model_index.json", a_folder_up),
    "config": Reader(read_config),
    "scheduler": Reader(lambda path: read_sampler(path.parents[1], {}), "scheduler/scheduler_config.json"),
    "vocabulary": Reader(lambda path: read_vocabulary(path.parent), "vocab.json"),
    "recipe": Reader(Recipe.read),
    "bench report": Reader(lambda path: read_report(path, BenchReport)),
    "verify report": Reader(lambda path: read_report(path, VerifyReport)),
    "kind of report": Reader(report_kind),
    "attachments": Reader(attachments, "manifest.json"),
    "memory limits": Reader(shipped(footprint, "LIMITS_FILE", footprint.memory_limits)),
    "cost model": Reader(shipped(cost, "MODEL_FILE", cost.cost_model)),
    "device table": Reader(shipped(devices, "DEVICES_FILE", devices.device_table)),
    "rules": Reader(shipped(rule, "RULES_FILE", rule.rule_book)),
    "exceptions": Reader(rule.read_exceptions),
    "device factors": Reader(lambda path: DeviceFactors.read(path, PHONE)),
    "lookup table": Reader(read_table),
    "block timings": Reader(RecordedTimer),
    "compute plan": Reader(read_plan),
}

BREAKS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a directory": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link in a circle": lambda path: path.symlink_to(path.name),
    "empty": lambda path: path.touch(),
    "not UTF-8": lambda path: path.write_bytes(b'{"kind": "\xff"}'),
    "UTF-16": lambda path: path.write_text("{}", encoding="utf-16"),
    "cut": lambda path: path.write_text('{"version": 1, "kind"'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "deep in a value": lambda path: path.write_text('{"version": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "NaN": lambda path: path.write_text('{"version": NaN}'),
    "a number of 5,000 digits": lambda path: path.write_text('{"version": ' + "1" * 5000 + "}"),
    "a number beyond a float": lambda path: path.write_text('{"version": 1e999}'),
    "a text": lambda path: path.write_text('"a"'),
    "a number": lambda path: path.write_text("1"),
    "null": lambda path: path.write_text("null"),
}


@pytest.fixture
def _without_waiting() -> Iterator[None]:
    """A reader that waits, for the other end of a pipe say, is ended."""

    def ended(*_: object) -> None:
        raise AssertionError("the reader waited")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_without_waiting")
@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("name", READERS)
def test_a_broken_file_is_one_sentence_that_names_it(name: str, broken: str, tmp_path: Path) -> None:
    reader = READERS[name]
    path = tmp_path / reader.place
    path.parent.mkdir(exist_ok=True)
    BREAKS[broken](path)
    with pytest.raises(SfmobileError) as refusal:
        reader.read(path)
    sentence = str(refusal.value)
    assert str(reader.named(path)) in sentence
    assert refusal.value.exit_code == 4
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 1000


@pytest.mark.usefixtures("_without_waiting")
@pytest.mark.parametrize("broken", sorted(set(BREAKS) - {"empty"}))
def test_broken_merges_are_one_sentence_too(broken: str, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(TOKENIZER_DIR)
    BREAKS[broken](tmp_path / "merges.txt")
    with pytest.raises(SfmobileError, match=r"merges\.txt'?:? ") as refusal:
        read_merges(tmp_path, vocabulary)
    assert refusal.value.exit_code == 4 and "\n" not in str(refusal.value)
