from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.evaluate import evaluation
from sfmobile.sampling.samplers.named import name_of
from sfmobile.train import pictures
from tests.cli.run import run
from tests.evaluate.test_evaluation import judges
from tests.evaluate.tiny_sprites import sprite_pool


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sprites and judges of the tests in place of the cache's."""
    monkeypatch.setattr(evaluation, "load_judges", lambda *_, **__: judges())
    made = pictures.Pictures(sprite_pool(), 32)
    monkeypatch.setattr(pictures.Pictures, "open", classmethod(lambda *_: made))


def test_a_checkpoint_is_measured_beside_real_pictures(
    prepared: None, tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--pictures", 8, "--composed", 2, "--steps", 1, "--cpu")
    outcome = run(capsys, "evaluate", tiny_checkpoint.root, "-o", tmp_path / "out", *sizes, "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    real, own = record["measurements"]
    assert real["name"] == "real held-out pictures"
    assert own["name"].startswith(f"{tiny_checkpoint.name}, 1 step of {name_of(tiny_checkpoint.sampler)}, guidance")
    assert own["figures"]["FD-EffNetLite0"] > own["figures"]["FD-EffNetLite0 floor"] > 0
    assert record["judge"]["compositions"]["pairs"] == 128
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert text.index("the dual encoder on real pictures") < text.index(own["name"])
    assert (tmp_path / "out" / "trade-off.png").stat().st_size > 1000


def test_a_missing_judge_and_missing_settings_are_one_sentence(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.EfficientNetLite0, "load", lambda cache: evaluation.EfficientNetLite0())
    missing = ("--judge", tmp_path / "none.safetensors", "--cache", tmp_path)
    outcome = run(capsys, "evaluate", tiny_checkpoint.root, "-o", tmp_path / "out", "--cpu", *missing)
    assert outcome.code == 4
    assert "none.safetensors" in outcome.sentence
    outcome = run(capsys, "train", "dual-encoder", tmp_path / "none.json", "--run", tmp_path / "run")
    assert outcome.code == 2
    assert "none.json" in outcome.sentence
