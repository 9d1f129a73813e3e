"""`sfmobile inspect` as a linter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from tests.cli.run import run


def test_our_own_bundle_passes_the_strictest_gate(tiny_palettized_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_palettized_bundle.root, "--fail-on", "note")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("Neural Engine lint: no findings, ") and lines[0].endswith(" accepted.")
    assert lines[1].startswith("Memory, estimated: ") and "fits on every phone" in " ".join(lines[1:3])
    assert "The embedding look-up" not in outcome.out and "--all" in outcome.out and len(lines) < 25
    outcome = run(capsys, "inspect", tiny_palettized_bundle.root, "--all")
    assert "no findings beyond the exceptions below" in outcome.out
    assert "The embedding look-up is the first operation of the graph" in outcome.out


def test_a_package_on_its_own_fails_a_gate_at_its_severity(tiny_bundle: Bundle, capsys) -> None:
    package = tiny_bundle.package("text_encoder")
    assert run(capsys, "inspect", package, "--fail-on", "error").code == 0
    outcome = run(capsys, "inspect", package, "--fail-on", "warning")
    assert outcome.code == 1
    assert "1 findings of severity warning or worse (cpu-operation)" in outcome.sentence
    assert "cpu-operation: Compute it on the host" in outcome.out
    assert outcome.out.startswith("Neural Engine lint: 1 of severity warning")


def test_blocks_and_findings_are_in_the_json(tiny_bundle: Bundle, capsys) -> None:
    said = json.loads(run(capsys, "inspect", tiny_bundle.root, "--json").out)
    unet = {row["block"]: row for row in said["unet"]["blocks"]}
    assert unet["down_blocks.0.resnets.0"]["macs"] > 0 and unet["down_blocks.0.resnets.0"]["bits_per_weight"] == 16
    assert sum(row["weights"] for row in unet.values()) == said["unet"]["weights"]
    (finding,) = said["text_encoder"]["findings"]
    assert finding["rule"] == "cpu-operation" and finding["exception"] and finding["kind"] == "gather"


def test_exceptions_of_ones_own_replace_those_of_sfmobile(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    none = tmp_path / "none.json"
    none.write_text('{"version": 1, "exceptions": []}')
    outcome = run(capsys, "inspect", tiny_bundle.root, "--exceptions", none, "--fail-on", "warning", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["text_encoder"]["findings"][0]["exception"] is None
    outcome = run(capsys, "inspect", tiny_bundle.root, "--exceptions", tmp_path / "absent.json")
    assert outcome.code == 4 and "absent.json" in outcome.sentence


def test_sarif_names_packages_relative_to_the_working_directory(
    tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out" / "bundle"
    shutil.copytree(tiny_bundle.root, root)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "inspect", "out/bundle", "--sarif", "lint.sarif").code == 0
    results = json.loads((tmp_path / "lint.sarif").read_text())["runs"][0]["results"]
    uris = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in results]
    assert "out/bundle/TextEncoder.mlpackage/Data/com.apple.CoreML/model.mlmodel" in uris
    assert all((tmp_path / uri).is_file() for uri in uris)


def test_a_recorded_run_checks_real_activations(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.root, "--activations", "1", "--fail-on", "note")
    assert outcome.code == 0 and outcome.out.startswith("Neural Engine lint: no findings, ")
    outcome = run(capsys, "inspect", tiny_bundle.package("unet"), "--activations", "1")
    assert outcome.code == 2 and "needs a bundle" in outcome.sentence
