from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sfmobile.bench.report import read_report
from sfmobile.bench.verify_report import VerifyReport
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from tests.cli.run import run


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle.root, tmp_path / "copied"))


def forge(root: Path, component: str, change) -> None:
    """Change a component's weight file and make the manifest agree, as a broken exporter would."""
    manifest = json.loads((root / "manifest.json").read_text())
    record = manifest["components"][component]
    name = next(name for name in record["files"] if name.endswith("weight.bin"))
    content = bytearray((root / name).read_bytes())
    change(content)
    (root / name).write_bytes(content)
    record["files"][name]["sha256"] = digest_file(root / name).sha256
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_a_whole_export_passes_and_leaves_its_report_in_the_bundle(
    copied: Path, tiny_checkpoint: Checkpoint, capsys
) -> None:
    outcome = run(capsys, "verify", copied, "--source", tiny_checkpoint.root, "--steps", 2)
    assert outcome.code == 0 and "mil fp16" in outcome.out and "FAILED" not in outcome.out
    answers = (
        "Passed: it is the network",
        "Exact: ",
        "Lost: ",
        "Rounded: ",
        "Read: ",
        "References: nets; golden; diff",
    )
    assert [outcome.out.index(words) for words in answers] == sorted(outcome.out.index(words) for words in answers)
    report = read_report(copied / "reports" / "verify.json", VerifyReport)
    assert report.passed and report.steps == 2 and report.reference.kind == "torch"
    assert [one.runtime.precision for one in report.evaluations] == ["fp32", "fp16"]
    exact, rounded = (one.components["unet"].worst.psnr_db for one in report.evaluations)
    assert exact is not None and rounded is not None and exact > rounded > 60


def test_json_is_alone_on_stdout_whether_the_gate_holds_or_not(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path, capsys
) -> None:
    options = ("--source", tiny_checkpoint.root, "--steps", 1, "--prompt", "a", "--precision", "fp16", "--json")
    options += ("--reference", "nets")
    for gate, code in ((20, 0), (200, 1)):
        path = tmp_path / f"{gate}.json"
        outcome = run(capsys, "verify", tiny_bundle.root, *options, "--gate", gate, "-o", path)
        assert outcome.code == code
        assert json.loads(outcome.out) == json.loads(path.read_text())


def test_a_damaged_weight_fails_the_gate_and_the_operation_is_named(
    copied: Path, tiny_checkpoint: Checkpoint, capsys
) -> None:
    def zero_a_stretch(content: bytearray) -> None:
        # Whole kernels of some layer become zero; the file's own headers stay.
        middle = len(content) // 2 // 64 * 64
        content[middle : middle + 16384] = bytes(16384)

    forge(copied, "unet", zero_a_stretch)
    outcome = run(capsys, "verify", copied, "--source", tiny_checkpoint.root, "--steps", 1, "--precision", "fp32")
    assert outcome.code == 1
    assert "unet" in outcome.sentence and "first at operation" in outcome.sentence
    report = read_report(copied / "reports" / "verify.json", VerifyReport)
    fault = report.evaluations[0].components["unet"].first_divergence
    assert fault is not None and fault.reference.startswith("torch module ")
    assert fault.weight_psnr_db is not None and fault.weight_psnr_db < 60
    assert "the error appears at" in outcome.out and fault.name in outcome.out
    assert report.evaluations[0].components["decoder"].passed


def test_nan_in_the_weights_is_a_failed_gate_not_a_crash(copied: Path, tiny_checkpoint: Checkpoint, capsys) -> None:
    def last_values_to_nan(content: bytearray) -> None:
        content[-64:] = np.full(32, np.nan, np.float16).tobytes()

    forge(copied, "decoder", last_values_to_nan)
    outcome = run(
        capsys, "verify", copied, "--source", tiny_checkpoint.root, "--steps", 1, "--reference", "nets", "--json"
    )
    assert outcome.code == 1 and "NaN or infinite" in outcome.sentence
    said = json.loads(outcome.out)
    assert said["evaluations"][0]["components"]["decoder"]["worst"]["nonfinite"] > 0
    assert said["evaluations"][0]["picture"]["psnr_db"] is None
    assert "decoder gives " in said["evaluations"][0]["broke_off"] and "first at operation " in outcome.sentence


def test_without_the_checkpoint_the_golden_vectors_are_the_reference(
    tiny_palettized_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    moved = Path(shutil.copytree(tiny_palettized_bundle.root, tmp_path / "moved"))
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["source"]["id"] = "someone/model"
    (moved / "manifest.json").write_text(json.dumps(manifest))
    outcome = run(capsys, "verify", moved)
    assert outcome.code == 0 and "not nets: the checkpoint 'someone/model' isn't here" in outcome.out
    report = read_report(moved / "reports" / "verify.json", VerifyReport)
    assert report.reference.description.startswith("golden vectors")
    outcome = run(capsys, "verify", moved, "--reference", "nets")
    assert outcome.code == 3 and "--source" in outcome.sentence
    outcome = run(capsys, "verify", moved, "--prompt", "a")
    assert outcome.code == 2 and "--source" in outcome.sentence


def test_another_checkpoint_is_no_reference(
    tiny_bundle: Bundle, tiny_snapfusion_checkpoint: Checkpoint, capsys
) -> None:
    outcome = run(capsys, "verify", tiny_bundle.root, "--source", tiny_snapfusion_checkpoint.root)
    assert outcome.code == 4 and "is not the checkpoint" in outcome.sentence


def test_the_torch_runtime_is_identical_to_itself(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path, capsys
) -> None:
    outcome = run(
        capsys,
        *("verify", tiny_bundle.root, "--runtime", "torch", "--source", tiny_checkpoint.root, "--steps", 1),
        *("-o", tmp_path / "verify.json"),
    )
    assert outcome.code == 0
    (evaluation,) = read_report(tmp_path / "verify.json", VerifyReport).evaluations
    assert all(component.worst.identical for component in evaluation.components.values())
    assert evaluation.picture is not None and evaluation.picture.identical
    assert all(step.agreement.identical for step in evaluation.steps)
