"""Old names of options: they work for a release, say so, and are not offered any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.cli.renamed import RENAMED
from tests.cli.run import run

GROUPS = {"search": ("compress", "search"), "evolve": ("train", "evolve")}


@pytest.mark.parametrize("command", RENAMED)
def test_the_help_has_the_new_names_alone(command: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words = run(capsys, *GROUPS.get(command, (command,)), "--help").out.replace(",", " ").split()
    for old, new in RENAMED[command].items():
        assert new in words and old not in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("inspect", "{package}", "--calibrate", "1"), "--activations draws a picture, which needs a bundle"),
        (("inspect", "{package}", "--calibrate=1"), "--activations draws a picture, which needs a bundle"),
        (("inspect", "{package}", "--calibration", "f"), "need --device"),
        (("export", "nowhere", "-o", "out", "--precision", "float32"), "float32 is for --format onnx"),
        (("compress", "search", "nowhere", "-o", "r", "--calibration-prompts", "0"), "--sensitivity-prompts 0"),
        (("profile-blocks", "sd15", "-o", "t", "--batch", "3"), "--guidance-batch 3 is impossible"),
        (("profile-blocks", "sd15", "-o", "t", "--runtime", "estimate"), "--timer estimate"),
    ],
)
def test_an_old_name_does_what_the_new_one_does_and_says_so(
    arguments: tuple[str, ...], sentence: str, tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(capsys, *(word.format(package=tiny_bundle.package("unet")) for word in arguments))
    assert outcome.code == 2 and sentence in outcome.sentence
    (note,) = (line for line in outcome.err.splitlines() if line.startswith("note: "))
    assert " is now --" in note and "next release" in note


def test_what_stands_behind_a_double_dash_is_no_option(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    outcome = run(capsys, "inspect", "--", "--calibrate")
    assert outcome.code == 4 and "'--calibrate' doesn't exist" in outcome.sentence and "note" not in outcome.err
