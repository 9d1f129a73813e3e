from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.cli.profile_blocks import read_layout
from sfmobile.inspect.lookup.table import read_table
from sfmobile.nets.layout import SD15_UNET
from tests.cli.run import run
from tests.tiny import TINY_UNET


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


def test_a_checkpoints_blocks_are_timed_and_kept(
    tiny_checkpoint: Checkpoint, cache: Path, tmp_path: Path, capsys
) -> None:
    table = tmp_path / "table.json"
    common = (tiny_checkpoint.root, "-o", table, "--latent-size", "8x8", "--blocks", cache, "-n", "2")
    outcome = run(capsys, "profile-blocks", *common)
    assert outcome.code == 0, outcome.err
    assert "Blocks, measured by mil fp32" in outcome.out and "attention 32 at 8x8" in outcome.out
    first = read_table(table)
    assert first.latency(TINY_UNET) > 0 and first.machine is not None
    assert first.producer.tools["sfmobile"]
    again = json.loads(run(capsys, "profile-blocks", *common, "--json").out)
    assert [entry["timing"] for entry in again["entries"]] == [
        entry.timing.model_dump(mode="json") for entry in first.entries
    ]


def test_an_estimate_says_so_and_needs_a_device(
    tiny_checkpoint: Checkpoint, cache: Path, tmp_path: Path, capsys
) -> None:
    common = (tiny_checkpoint.root, "-o", tmp_path / "table.json", "--latent-size", "8x8", "--blocks", cache)
    outcome = run(capsys, "profile-blocks", *common, "--timer", "estimate", "--device", "iphone-14-pro")
    assert outcome.code == 0 and "Blocks, estimated by cost model, iPhone 14 Pro (A16)" in outcome.out
    assert run(capsys, "profile-blocks", *common, "--timer", "estimate").code == 2
    assert run(capsys, "profile-blocks", *common, "--device", "iphone-14-pro").code == 2
    outcome = run(capsys, "profile-blocks", *common)
    assert outcome.code == 2 and "holds timings of cost model" in outcome.sentence


def test_packages_can_be_measured_elsewhere(tiny_checkpoint: Checkpoint, cache: Path, tmp_path: Path, capsys) -> None:
    listed = tmp_path / "packages.json"
    common = (tiny_checkpoint.root, "--latent-size", "8x8", "--blocks", cache)
    assert run(capsys, "profile-blocks", *common, "-o", listed, "--packages-only").code == 0
    packages = json.loads(listed.read_text())["packages"]
    assert all((cache / f"{name}.mlpackage").is_dir() for name in packages)
    machine = {
        "model": "iPhone15,2", "processor": "Apple A16", "architecture": "arm64", "cores": 6,
        "memory_bytes": 6 << 30, "os": "iOS 18.1",
    }  # fmt: skip
    recorded = tmp_path / "recorded.json"
    timings = {name: {"milliseconds": 2.0, "minimum_ms": 1.0, "predictions": 5} for name in packages}
    content = {"kind": "block_timings", "version": 1, "runtime": "coreml", "machine": machine, "timings": timings}
    recorded.write_text(json.dumps(content))
    table = tmp_path / "table.json"
    assert run(capsys, "profile-blocks", *common, "-o", table, "--recorded", recorded).code == 0
    found = read_table(table)
    assert (found.label, found.runtime, found.overhead_ms) == ("measured", "coreml", 2.0)
    # Every block costs what a call that computes nothing costs.
    assert found.latency(TINY_UNET) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "neither a layout"),
        (("sd15", "--latent-size", "64by64"), "--latent-size 64by64 is no size"),
        (("sd15", "--latent-size", "60x64"), "multiples of 8"),
        (("sd15", "--bits", "5"), "5 bits"),
        (("sd15", "--compute-unit", "ALL"), "for the coreml runtime"),
        (("sd15", "--recorded", "absent.json"), "absent.json"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    arguments: tuple[str, ...], words: str, cache: Path, tmp_path: Path, capsys
) -> None:
    outcome = run(capsys, "profile-blocks", *arguments, "-o", tmp_path / "table.json", "--blocks", cache)
    assert outcome.code in (2, 4) and words in outcome.sentence


def test_a_name_that_is_a_layout_and_a_directory_is_a_question_with_two_answers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd15").mkdir()
    outcome = run(capsys, "profile-blocks", "sd15", "-o", "table.json", "--blocks", cache)
    assert outcome.code == 2 and "layout:sd15" in outcome.sentence and "./sd15" in outcome.sentence
    # Each answer is taken as it says: the directory holds no checkpoint, the layout is the one of that name.
    assert run(capsys, "profile-blocks", "./sd15", "-o", "table.json", "--blocks", cache).code == 4
    assert read_layout("layout:sd15") is SD15_UNET
