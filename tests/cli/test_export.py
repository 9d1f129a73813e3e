from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from tests.cli.run import run


def test_a_plan_for_a_place_that_takes_no_files_says_so(tiny_checkpoint: Checkpoint, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "file" / "bundle", "--dry-run")
    assert outcome.code == 2 and "can't be written (" in outcome.sentence


def test_a_choice_that_is_none_is_said_in_plain_words(tiny_checkpoint: Checkpoint, tmp_path: Path, capsys) -> None:
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "b", "--format", "onx")
    assert outcome.code == 2 and "'onx' is not one of" in outcome.err and "Value error" not in outcome.err


def test_latents_that_are_meant_as_pixels_are_asked_about(tiny_checkpoint: Checkpoint, tmp_path: Path, capsys) -> None:
    plan = ("export", tiny_checkpoint.root, "-o", tmp_path / "b", "--dry-run")
    slip = run(capsys, *plan, "--latent-size", "64x64")
    assert slip.code == 2 and "--size 64x64, or --size 128x128 if you mean that" in slip.sentence
    assert "latents 64x64" in run(capsys, *plan, "--size", "128x128").out
    assert run(capsys, *plan, "--size", "16x16", "--latent-size", "8x8").code == 2


def test_export_prints_a_table_and_makes_a_whole_bundle(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "bundle", "--author", "A. U. Thor")
    assert outcome.code == 0
    bundle = Bundle.open(tmp_path / "bundle")
    manifest = bundle.manifest
    # The defaults: 6 bits, split-einsum, the checkpoint's latent size, golden vectors, verifiable where it was.
    for record in manifest.components.values():
        assert record.compression is not None and record.compression.bits == 6
        assert record.attention == "split-einsum"
    assert (manifest.latents.height, manifest.latents.width) == tiny_checkpoint.latent_size
    assert manifest.golden is not None and bundle.golden("decoder.image").ndim == 4
    assert manifest.source.id == str(tiny_checkpoint.root)
    for word in (*manifest.components, "792,964", "6 bits", "sfmobile verify"):
        assert word in outcome.out
    # Converters are talkative; a user's screen is not theirs.
    assert "coremltools" not in outcome.err and "Running MIL" not in outcome.err and "Warning" not in outcome.err
    again = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "bundle", "--author", "A. U. Thor", "--json")
    result = json.loads(again.out)
    assert all(part["reused"] for part in result["components"].values())
    assert result["bytes"] == sum(record.bytes for record in manifest.components.values())


def test_dry_run_says_sizes_and_makes_nothing(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    outcome = run(
        capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "bundle", "--dry-run", "--json",
        "--latent-size", "8x16", "--component", "unet", "--bits", "none", "--guidance-batch", "1",
    )  # fmt: skip
    assert outcome.code == 0 and list(tmp_path.iterdir()) == []
    plan = json.loads(outcome.out)
    assert plan["latent_size"] == [8, 16] and set(plan["components"]) == {"unet"}
    assert plan["components"]["unet"]["inputs"][0]["shape"] == [1, 4, 8, 16]
    assert plan["disk_bytes"] >= 2 * plan["components"]["unet"]["parameters"]
    table = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "bundle", "--dry-run")
    assert "not made" in table.out and "are free" in table.out


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--bits", "five"], 2, "--bits five is no number of bits"),
        (["--bits", "5"], 2, "5 bits can't be stored"),
        (["--bits", "3"], 2, "3 bits need target ios18"),
        (["--latent-size", "64by64"], 2, "--latent-size 64by64 is no size"),
        (["--latent-size", "7"], 2, "multiples of 2"),
        (["--guidance-batch", "3"], 2, "--guidance-batch 3 is impossible"),
        (["--metadata", "colour"], 2, "--metadata colour is no pair"),
        (["--format", "onnx", "--bits", "6"], 2, "ONNX files are not palettized"),
        (["--precision", "float32"], 2, "float32 is for --format onnx"),
        (["--group-size", "12", "--target", "ios18"], 2, "A group of 12 channels doesn't divide"),
        (["--lora", "x.safetensors:nan"], 2, "the scale is nan; expected a finite number"),
        (["--lora", "absent.safetensors"], 4, "doesn't exist; expected a LoRA"),
        (["--embedding", "absent.safetensors"], 4, "doesn't exist; expected a file of textual inversion"),
        (["--vae", "absent"], 4, "doesn't exist; expected an autoencoder"),
        (["--prediction", "epsilon"], 2, "--prediction is for a single file"),
        (["--recipe", "absent.json"], 4, "'absent.json' doesn't exist: expected a recipe"),
    ],
)
def test_bad_options_are_one_sentence_before_any_work(
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    options: list[str],
    code: int,
    sentence: str,
) -> None:
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "bundle", *options)
    assert outcome.code == code and sentence in outcome.sentence
    assert list(tmp_path.iterdir()) == []


def test_source_that_is_no_checkpoint_is_an_artifact_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    outcome = run(capsys, "export", tmp_path / "photos", "-o", tmp_path / "bundle")
    assert outcome.code == 4 and "model_index.json" in outcome.sentence


def test_target_that_is_not_a_bundle_is_never_replaced(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"cat")
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "photos")
    assert outcome.code == 2 and "is not empty and not a whole bundle" in outcome.sentence
    assert (tmp_path / "photos/cat.jpg").read_bytes() == b"cat"


def test_too_little_disk_is_this_environments_fault(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**5))
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", tmp_path / "bundle")
    assert outcome.code == 3 and "free some space" in outcome.sentence


def test_what_it_says_to_run_next_names_the_runtime_that_can(
    capsys, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "with a space"
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", folder, "--format", "onnx", "--component", "decoder",
                  "--no-golden")  # fmt: skip
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("Next: sfmobile ")]
    following = shlex.split(line)[2:]
    assert following == ["verify", str(folder), "--runtime", "onnx"]


def test_an_optional_component_is_asked_for_by_name(tiny_checkpoint: Checkpoint, tmp_path: Path, capsys) -> None:
    asked = ("export", tiny_checkpoint.root, "-o", tmp_path / "bundle", "--dry-run", "--json", "--with")
    said = json.loads(run(capsys, *asked, "encoder").out)
    assert list(said["components"]) == ["text_encoder", "encoder", "unet", "decoder"]
    outcome = run(capsys, *asked, "controller")
    assert outcome.code == 2 and "optional: encoder" in outcome.err
