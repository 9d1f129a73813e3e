from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sfmobile.inspect.lookup.table import read_table
from sfmobile.train import pictures, plan
from sfmobile.train.evolve.supernet import BlockCounts
from tests.cli.run import Outcome, run
from tests.evaluate.tiny_sprites import sprite_pool
from tests.train.evolve.evolution_sample import (
    NETWORKS,
    SETTINGS,
    SUPERNET,
    made_up_table,
    write_dual_encoder,
    write_plan,
    write_run,
)


class Scene:
    """A plan, a run, a table and a judge, and the command over them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plan = write_plan(root / "plan")
        self.run = write_run(root / "run")
        self.table = root / "table.json"
        made_up_table(SUPERNET).write(self.table)
        self.judge = write_dual_encoder(root / "dual_encoder.safetensors")

    def evolve(self, capsys: pytest.CaptureFixture[str], *options: object) -> Outcome:
        common = (self.plan, "--run", self.run, "--table", self.table, "--judge", self.judge, "--cpu")
        return run(capsys, "train", "evolve", *common, *options)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(plan, "Networks", lambda **_: NETWORKS)
    made = pictures.Pictures(sprite_pool(), 16)
    monkeypatch.setattr(pictures.Pictures, "open", classmethod(lambda *_: made))
    return Scene(tmp_path)


def test_an_evolution_shows_its_rounds_and_leaves_its_log_and_picture(scene: Scene, capsys) -> None:
    outcome = scene.evolve(capsys)
    assert outcome.code == 0, outcome.err
    target = 0.8 * read_table(scene.table).latency(SUPERNET)
    assert f"Evolution to {target:.4g} ms a UNet call" in outcome.out and "supernet" in outcome.out
    assert "round 0: score" in outcome.err and "remove " in outcome.err
    root = scene.run / "evolution"
    assert (root / "path.png").stat().st_size > 1000
    again = scene.evolve(capsys, "--json")
    record = json.loads(again.out)
    lines = [json.loads(line) for line in (root / "decisions.jsonl").read_text().splitlines()]
    assert record["decisions"] == lines and "round 0" not in again.err
    assert record["evolved"]["latency_ms"] <= record["target_ms"] == pytest.approx(target)


def test_a_target_out_of_reach_names_the_lowest_latency_found(scene: Scene, capsys) -> None:
    write_plan(scene.plan, replace(SETTINGS, target_share=None, target_ms=1.0))
    outcome = scene.evolve(capsys)
    assert outcome.code == 2
    assert "1 ms can't be reached: with every removable block gone the UNet still takes 13.5 ms" in outcome.sentence
    write_plan(scene.plan, replace(SETTINGS, target_share=0.6, rounds=1, removals=1))
    outcome = scene.evolve(capsys)
    assert outcome.code == 1 and "After 1 rounds the UNet takes" in outcome.sentence


def test_a_table_that_lacks_a_block_says_which_to_measure(scene: Scene, capsys) -> None:
    table = made_up_table(SUPERNET)
    entries = tuple(entry for entry in table.entries if entry.key.kind != "attention")
    table.model_copy(update={"entries": entries}).write(scene.table)
    outcome = scene.evolve(capsys)
    assert outcome.code == 2
    assert "lacks 2 blocks of layout 'small-supernet'" in outcome.sentence
    assert "attention 32 at 8x8" in outcome.sentence and "profile-blocks" in outcome.sentence


def test_a_layout_that_breaks_the_skip_connections_names_the_stage(scene: Scene, capsys) -> None:
    counts = BlockCounts(down=((2, 2), (1, 1)), mid=(1, 1), up=((2, 1), (2, 1)))
    write_plan(scene.plan, replace(SETTINGS, supernet=counts))
    outcome = scene.evolve(capsys)
    assert outcome.code == 2 and "up stage 1 doesn't close its skip connections" in outcome.sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "iphone-14-prom"), "iphone-14-pro"),
        (("--device", "iphone-15-pro"), "holds timings of cost model, iPhone 14 Pro"),
        (("--timer", "mil"), "holds timings of cost model"),
        (("--table", "absent.json"), "There is no lookup table 'absent.json'"),
        (("--judge", "absent.safetensors"), "absent.safetensors"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: tuple[str, ...], words: str, scene, capsys) -> None:
    outcome = scene.evolve(capsys, *options)
    assert outcome.code in (2, 4) and words in outcome.sentence


def test_a_table_of_another_latent_size_is_refused(scene: Scene, capsys) -> None:
    made_up_table(SUPERNET, side=16).write(scene.table)
    outcome = scene.evolve(capsys)
    assert outcome.code == 2 and "--latent-size 8x8" in outcome.sentence


def test_settings_that_are_missing_or_wrong_are_named(scene: Scene, capsys) -> None:
    outcome = scene.evolve(capsys, "other")
    assert outcome.code == 2
    outcome = run(capsys, "train", "evolve", scene.plan, "other", "--run", scene.run)
    assert outcome.code == 2 and "other.json" in outcome.sentence
    settings = json.loads((scene.plan / "evolution.json").read_text())
    (scene.plan / "evolution.json").write_text(json.dumps(settings | {"round": {"steps": "many"}}))
    outcome = scene.evolve(capsys)
    assert (
        outcome.code == 2 and "evolution.json: round: steps: expected a valid integer, found 'many'" in outcome.sentence
    )


def test_several_processes_do_not_each_measure(scene: Scene, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = scene.evolve(capsys, "--timer", "mil")
    assert outcome.code == 2 and "Several processes would each measure other times" in outcome.sentence
