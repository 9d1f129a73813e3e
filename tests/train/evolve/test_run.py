"""An evolution by settings: from a stage's network to a trained one at the target, resumable and readable."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.evaluate.agreement import Agreement, prompts_apart
from sfmobile.nets.layout import UNetLayout
from sfmobile.train.config import read_config
from sfmobile.train.evolve.evolution import read_decisions
from sfmobile.train.evolve.plot import block_counts, plot_path, read_path
from sfmobile.train.evolve.run import EvolutionRun, Judge
from sfmobile.train.run import Run
from sfmobile.train.state import load_tensors
from tests.evaluate.test_evaluation import judges
from tests.evaluate.tiny_sprites import encode, sprite_pool
from tests.train.evolve.evolution_sample import LAYOUT, NETWORKS, SETTINGS, SUPERNET, made_up_table, write_run

TABLE = made_up_table(SUPERNET)


def evolution(root, **changes) -> EvolutionRun:
    run = Run(root, NETWORKS, cpu=True)
    pool = run.pool()
    prompts = prompts_apart(sprite_pool().sprites, pool, encode, SETTINGS.prompt_kinds, SETTINGS.prompts)
    judge = Judge(Agreement(judges().dual_encoder, encode, prompts), encode)
    return EvolutionRun(run, "evolution", replace(SETTINGS, **changes), judge, TABLE.latency)


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    """A finished evolution."""
    made = evolution(write_run(tmp_path_factory.mktemp("run")))
    made.evolve()
    return made


def test_an_evolution_ends_at_the_target_with_a_trained_network(evolved):
    result = json.loads((evolved.root / "result.json").read_text())
    assert result["target_ms"] == pytest.approx(0.8 * TABLE.latency(SUPERNET))
    assert result["evolved"]["latency_ms"] <= result["target_ms"] < result["supernet"]["latency_ms"]
    decisions = read_decisions(evolved.root)
    assert result["rounds"] == len(decisions)
    assert all((evolved.root / f"round-{number}" / "log.jsonl").exists() for number in range(len(decisions)))
    assert (evolved.root / "finish" / "log.jsonl").exists()


def test_a_later_stage_can_start_from_the_evolved_network(evolved):
    run = Run(evolved.run.root, NETWORKS, cpu=True)
    network = run.new_unet(run.unet_layout("evolution"), "evolution")
    assert run.record("evolution").kind == "evolution"
    assert run.text_encoder_of("evolution") == "teacher"
    assert network.layout == read_config(UNetLayout, evolved.root / "layout.json")
    assert TABLE.latency(network.layout) <= evolved.target_ms(SUPERNET)
    stored = load_tensors(evolved.root / "weights.safetensors")[0]
    assert torch.equal(network.state_dict()["conv_out.weight"], stored["unet.conv_out.weight"])


def test_an_evolution_run_again_does_nothing_new(evolved):
    before = load_tensors(evolved.root / "weights.safetensors")[0]
    decisions = read_decisions(evolved.root)
    evolution(evolved.run.root).evolve()
    after = load_tensors(evolved.root / "weights.safetensors")[0]
    assert read_decisions(evolved.root) == decisions
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_settings_decide_the_same(evolved, tmp_path):
    again = evolution(write_run(tmp_path / "run"))
    again.evolve()
    assert read_decisions(again.root) == read_decisions(evolved.root)


def test_the_text_encoder_and_the_decoder_stay_as_they_are(evolved):
    source = load_tensors(evolved.run.root / "teacher" / "weights.safetensors")[0]
    state = evolved.text_encoder.state_dict()
    assert all(torch.equal(source[f"text_encoder.{name}"], value) for name, value in state.items())
    assert {name.split(".")[0] for name in load_tensors(evolved.root / "weights.safetensors")[0]} == {"unet"}


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"target_share": None, "target_ms": 30.0}, 30.0),
        ({"target_share": None, "target_layout": "small"}, TABLE.latency(LAYOUT)),
        ({"target_share": 0.5}, 0.5 * TABLE.latency(SUPERNET)),
    ],
    ids=["milliseconds", "layout", "share"],
)
def test_a_target_is_milliseconds_a_share_or_as_fast_as_a_layout(evolved, changes, target):
    assert evolution(evolved.run.root, **changes).target_ms(SUPERNET) == pytest.approx(target)


def test_two_targets_or_none_are_refused():
    with pytest.raises(UsageError, match="expected one of target_ms, target_share and target_layout, found 2"):
        replace(SETTINGS, target_ms=3.0)
    with pytest.raises(UsageError, match="found 0"):
        replace(SETTINGS, target_share=None)


def test_the_path_is_read_from_the_log_alone(evolved):
    path = read_path(evolved.root)
    decisions = read_decisions(evolved.root)
    assert [label for label, *_ in path] == ["supernet", *(f"round {entry['round']}" for entry in decisions)]
    assert path[0][1] == SUPERNET
    for _, layout, latency, _ in path:
        assert latency == pytest.approx(TABLE.latency(layout))
    final = json.loads((evolved.root / "result.json").read_text())["evolved"]["score"]
    assert [score for *_, score in path] == [*(entry["score"] for entry in decisions), final]


def test_blocks_are_counted_from_the_input_to_the_output():
    assert block_counts(SUPERNET) == [
        ("down 1", 2, 2),
        ("down 2", 1, 1),
        ("mid", 2, 2),
        ("up 1", 2, 1),
        ("up 2", 3, 1),
    ]


def test_the_path_is_drawn(evolved, tmp_path):
    from PIL import Image

    plot_path(evolved.root, tmp_path / "path.png")
    with Image.open(tmp_path / "path.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
        assert picture.width >= 700
    # ResNets and attention blocks have a colour each.
    assert {(0x48, 0x78, 0xA8), (0xC4, 0x4E, 0x52)} <= colours
    with pytest.raises(ArtifactError, match="found no round in it; evolve first"):
        plot_path(tmp_path, tmp_path / "nothing.png")
