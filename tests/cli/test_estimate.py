from __future__ import annotations

import json

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from tests.cli.run import run


def test_an_estimate_is_said_in_ten_lines_and_as_json(tiny_checkpoint: Checkpoint, capsys) -> None:
    outcome = run(capsys, "estimate", tiny_checkpoint.root, "--device", "iPhone 12", "--bits", "4")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) <= 10 and "4 bits" in lines[0] and "All figures are estimates" in lines[0]
    said = json.loads(
        run(capsys, "estimate", tiny_checkpoint.root, "--device", "iphone-12", "--bits", "4", "--json").out
    )
    assert said["label"] == "estimated" and said["device"] == "iphone-12"
    (row,) = said["rows"]
    assert row["bits"] == 4 and row["fit"] == "fits" and row["pixels"] == [16, 16]


def test_a_bundle_says_its_own(tiny_palettized_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "estimate", tiny_palettized_bundle.root, "--device", "iphone-14-pro")
    assert outcome.code == 0 and "exported: 6 bits, split-einsum" in outcome.out.splitlines()[0]
    refused = run(capsys, "estimate", tiny_palettized_bundle.root, "--device", "iphone-14-pro", "--bits", 4)
    assert refused.code == 2 and "is exported already" in refused.sentence


def test_what_is_nothing_or_no_device_is_named(tiny_checkpoint: Checkpoint, capsys) -> None:
    assert "iphone-12" in run(capsys, "estimate", tiny_checkpoint.root, "--device", "iphone-1200").sentence
    missing = run(capsys, "estimate", "/nowhere/at/all", "--device", "iphone-12")
    assert missing.code == 4 and "/nowhere/at/all" in missing.sentence
