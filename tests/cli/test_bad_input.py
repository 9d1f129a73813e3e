"""What users get wrong, command by command: one sentence, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.store import BundleWriter
from sfmobile.checkpoint.directory import Checkpoint
from tests.bundle.mutate import mutate
from tests.cli.run import run

UNET_WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint.root, tmp_path / "checkpoint"))


def refused(capsys, checkpoint: Path, *options: object, code: int = 4) -> str:
    """Export must refuse, and leave nothing behind that could be taken for a bundle."""
    target = checkpoint.parent / "bundle"
    outcome = run(capsys, "export", checkpoint, "-o", target, *options)
    assert outcome.code == code and outcome.out == ""
    assert not target.exists()
    return outcome.sentence


def test_a_path_that_is_no_checkpoint(tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "model_index.json" in refused(capsys, empty)
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"x")
    assert "is not a whole safetensors file" in refused(capsys, single)


def test_a_missing_and_a_truncated_shard(checkpoint: Path, capsys) -> None:
    weights = checkpoint / UNET_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert UNET_WEIGHTS.name in refused(capsys, checkpoint)
    weights.unlink()
    assert "unet" in refused(capsys, checkpoint)


def test_a_pickle_is_refused_unread(checkpoint: Path, capsys) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(checkpoint / "sprung"),)

    (checkpoint / UNET_WEIGHTS).unlink()
    (checkpoint / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    assert "safetensors" in refused(capsys, checkpoint)
    assert not (checkpoint / "sprung").exists()


def test_a_shape_that_does_not_fit_the_layout(checkpoint: Path, capsys) -> None:
    path = checkpoint / UNET_WEIGHTS
    tensors = load_file(path)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:16].copy()
    save_file(tensors, path)
    sentence = refused(capsys, checkpoint)
    assert "conv_in.weight" in sentence and "16" in sentence and "32" in sentence


@pytest.mark.parametrize("size", ["7x8", "8x9", "1", "0x0", "8xx8", "10000"])
def test_a_latent_size_that_cannot_be_halved_or_is_no_size(size: str, checkpoint: Path, capsys) -> None:
    assert size.split("x")[0] in refused(capsys, checkpoint, "--latent-size", size, code=2)


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", "5"),
        ("--bits", "many"),
        ("--group-size", "16"),
        ("--bits", "4", "--group-size", "16", "--target", "ios17"),
        ("--guidance-batch", "3"),
        ("--format", "onnx", "--bits", "6"),
        ("--metadata", "novalue"),
    ],
)
def test_options_that_contradict_each_other(options: tuple[str, ...], checkpoint: Path, capsys) -> None:
    refused(capsys, checkpoint, *options, code=2)


def test_a_hub_id_without_a_network_says_so(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = run(capsys, "export", "someone/some-model", "-o", tmp_path / "bundle")
    assert outcome.code == 3 and "someone/some-model" in outcome.sentence


def test_too_little_disk_is_said_before_the_work(checkpoint: Path, capsys, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    assert "free" in refused(capsys, checkpoint, code=3)


def test_a_disk_that_fills_up_on_the_way(checkpoint: Path, capsys, monkeypatch) -> None:
    from sfmobile.bundle import store

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "weight.bin")

    monkeypatch.setattr(store.BundleWriter, "finish", full)
    assert "space" in refused(capsys, checkpoint, "--component", "decoder", "--no-golden", code=3)


def test_two_exports_into_one_directory(checkpoint: Path, capsys) -> None:
    with BundleWriter(checkpoint.parent / "bundle"):
        assert "Another export" in refused(capsys, checkpoint, code=3)


def test_a_killed_export_leaves_no_bundle_and_a_rerun_resumes(checkpoint: Path, capsys) -> None:
    target = checkpoint.parent / "bundle"
    components = ["--component", "text_encoder", "--component", "decoder"]
    command = [sys.executable, "-m", "sfmobile", "export", str(checkpoint), "-o", str(target), *components]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("text_encoder: "):
                os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    outcome = run(capsys, *command[3:], "--json")
    assert outcome.code == 0
    reused = {name: record["reused"] for name, record in json.loads(outcome.out)["components"].items()}
    assert reused == {"text_encoder": True, "decoder": False}
    assert list(Bundle.open(target).manifest.components) == ["text_encoder", "decoder"]
    assert [path.name for path in checkpoint.parent.iterdir() if path.name.startswith(".bundle")] == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"op": "flip", "path": "tokenizer/vocab.json", "offset": 5}, "has changed"),
        ({"op": "delete", "path": "UNet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"}, "is missing"),
        ({"op": "truncate", "path": "Decoder.mlpackage/Manifest.json", "bytes": 3}, "is truncated"),
        ({"op": "set", "pointer": "/schema_version", "value": 7}, "schema_version 7"),
        ({"op": "set", "pointer": "/components/unet/package", "value": "../UNet.mlpackage"}, "../UNet.mlpackage"),
        ({"op": "delete", "path": "manifest.json"}, "manifest.json"),
    ],
    ids=["changed", "missing", "truncated", "future", "outside", "no manifest"],
)
@pytest.mark.parametrize("command", ["verify", "generate", "bench"])
def test_a_damaged_bundle_is_refused_before_it_runs(
    command: str, damage: dict[str, object], sentence: str, tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    mutate(root, damage)
    outcome = run(capsys, command, root, *(["a red apple"] if command == "generate" else []))
    assert outcome.code == 4 and sentence in outcome.sentence and outcome.out == ""
    assert not (root / "reports").exists() and not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("command", ["verify", "bench", "report"])
def test_a_reports_folder_that_leads_out_of_the_bundle_is_refused_before_it_runs(
    command: str, tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch
) -> None:
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    (tmp_path / "elsewhere").mkdir()
    (root / "reports").symlink_to(tmp_path / "elsewhere")
    for name in ("verify", "bench"):
        monkeypatch.setattr(f"sfmobile.{name}", lambda *_, **__: pytest.fail("it ran"), raising=False)
    monkeypatch.setattr("sfmobile.page.content.gather", lambda *_, **__: pytest.fail("it ran"))
    outcome = run(capsys, command, root)
    assert outcome.code == 4 and "leaves the bundle" in outcome.sentence and "remove the link" in outcome.sentence
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_bundle_without_a_component_draws_nothing(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["components"].pop("decoder")
    manifest["golden"] = None
    (root / "manifest.json").write_text(json.dumps(manifest))
    outcome = run(capsys, "generate", root, "a", "-o", tmp_path / "a.png")
    assert outcome.code == 4 and "decoder" in outcome.sentence and not (tmp_path / "a.png").exists()
