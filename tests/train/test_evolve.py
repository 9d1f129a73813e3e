"""Evolving follows Algorithm 1: it removes what is worth least per millisecond, and every decision can be re-read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sfmobile.errors import GateError, UsageError
from sfmobile.nets.layout import Stage
from sfmobile.nets.unet import UNet
from sfmobile.train.evolve import Evolution, EvolutionConfig, read_decisions, read_round
from sfmobile.train.mutation import Action, stages
from sfmobile.train.shrink import random_removal, uniform_shrinking
from tests.tiny import TINY_UNET

LAYOUT = replace(
    TINY_UNET,
    down=(Stage(32, 2, 2), Stage(64, 2, 2)),
    mid=Stage(64, 2, 1),
    up=(Stage(64, 3, 2), Stage(32, 3, 1)),
)
# Milliseconds of a block at each level; attention at the highest resolution is what costs.
COST = {("down_blocks.0", "attentions"): 10.0, ("up_blocks.1", "attentions"): 10.0}


def latency(layout):
    return 5.0 + sum(
        COST.get((prefix, kind), 2.0) * getattr(stage, kind)
        for prefix, stage in stages(layout).items()
        for kind in ("resnets", "attentions")
    )


def score(unet, gates):
    """Blocks are worth what stands here; the middle attention the most."""
    worth = {"mid_block.attentions.0": 5.0, "down_blocks.0.attentions.0": 0.3, "down_blocks.0.attentions.1": 0.2}
    return sum(float(g) * worth.get(name, 1.0) for name, g in zip(unet.layout.block_names(), gates, strict=True))


def evolve(root, target_ms=40.0, fine_tune=lambda unet, number: None, weigh=score, **settings):
    torch.manual_seed(0)
    config = EvolutionConfig(target_ms, **settings)
    return Evolution(root, config, weigh, latency, fine_tune).run(UNet(LAYOUT))


def test_the_cheapest_blocks_per_millisecond_go_first_until_the_target_is_met(tmp_path):
    evolved = evolve(tmp_path, target_ms=latency(LAYOUT) - 20, removals=1, copies=0)
    decisions = read_decisions(tmp_path)
    # 0.2 lost for 10 ms, then 0.3 for 10 ms (renumbered), where every other block costs 1 for 2 ms or 1 for 10 ms.
    assert [d["chosen"] for d in decisions[:2]] == [
        ["remove down_blocks.0.attentions.1"],
        ["remove down_blocks.0.attentions.0"],
    ]
    assert evolved.layout.down[0].attentions == 0
    assert evolved.layout.mid.attentions == 1
    assert latency(evolved.layout) <= latency(LAYOUT) - 20


def test_a_round_removes_no_more_than_the_target_asks_for(tmp_path):
    evolve(tmp_path, target_ms=latency(LAYOUT) - 9, removals=5, copies=0)
    assert len(read_decisions(tmp_path)[0]["chosen"]) == 1


def test_well_below_the_target_the_most_valuable_block_that_fits_is_copied(tmp_path):
    evolved = evolve(tmp_path, target_ms=latency(LAYOUT) + 3, slack=0.01, rounds=1)
    assert read_decisions(tmp_path)[0]["chosen"] == ["copy mid_block.attentions.0"]
    assert evolved.layout.mid.attentions == 2


def test_every_decision_holds_what_it_was_based_on(tmp_path):
    evolve(tmp_path, target_ms=latency(LAYOUT) - 10, removals=1, copies=0)
    first = read_decisions(tmp_path)[0]
    best = min(first["weighed"], key=lambda w: w["score_lost"] / w["milliseconds_saved"])
    assert first["chosen"] == [best["action"]]
    assert first["latency_ms"] == latency(LAYOUT)
    assert first["latency_after_ms"] == pytest.approx(first["latency_ms"] - best["milliseconds_saved"])


def test_each_round_fine_tunes_and_is_kept(tmp_path):
    rounds = []

    def fine_tune(unet, number):
        rounds.append(number)
        with torch.no_grad():
            unet.conv_out.bias.fill_(number + 1)

    evolved = evolve(tmp_path, target_ms=latency(LAYOUT) - 20, removals=1, copies=0, fine_tune=fine_tune)
    assert rounds == list(range(len(rounds)))
    stored = read_round(tmp_path / f"round-{len(rounds)}")
    assert stored.layout == evolved.layout
    assert torch.equal(stored.conv_out.bias, evolved.conv_out.bias)


def test_a_killed_evolution_keeps_its_weighings_and_goes_on_to_the_same_end(tmp_path):
    whole = evolve(tmp_path / "whole", target_ms=latency(LAYOUT) - 20, removals=1, copies=0)
    calls = []

    def dies(unet, gates):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return score(unet, gates)

    with pytest.raises(KeyboardInterrupt):
        evolve(tmp_path / "killed", target_ms=latency(LAYOUT) - 20, removals=1, copies=0, weigh=dies)
    before = len(calls)
    resumed = evolve(
        tmp_path / "killed", target_ms=latency(LAYOUT) - 20, removals=1, copies=0,
        weigh=lambda unet, gates: calls.append(1) or score(unet, gates),
    )  # fmt: skip
    assert resumed.layout == whole.layout
    weighings = sum(len(d["weighed"]) + 1 for d in read_decisions(tmp_path / "whole"))
    assert len(calls) - before < weighings
    assert [d["chosen"] for d in read_decisions(tmp_path / "killed")] == [
        d["chosen"] for d in read_decisions(tmp_path / "whole")
    ]


def test_a_target_that_cant_be_reached_names_the_lowest_latency(tmp_path):
    with pytest.raises(UsageError, match=r"with every removable block gone the UNet still takes \d+ ms"):
        evolve(tmp_path, target_ms=6.0)
    with pytest.raises(GateError, match="After 1 rounds"):
        evolve(tmp_path / "short", target_ms=30.0, rounds=1, removals=1)


def test_several_actions_of_a_round_touch_different_stages(tmp_path):
    evolve(tmp_path, target_ms=25.0, removals=3, rounds=20)
    for decision in read_decisions(tmp_path):
        prefixes = [block.rsplit(".", 2)[0] for text in decision["chosen"] for block in text.split() if "." in block]
        assert len(prefixes) == len(set(prefixes))


def test_other_ways_to_a_latency_meet_it():
    removed = random_removal(LAYOUT, latency, 40.0, seed=1)
    assert latency(removed) <= 40.0
    assert removed == random_removal(LAYOUT, latency, 40.0, seed=1)
    assert removed != random_removal(LAYOUT, latency, 40.0, seed=2)

    def by_width(layout):
        return float(sum(stage.channels for stage in stages(layout).values()))

    narrowed = uniform_shrinking(LAYOUT, by_width, 200.0)
    assert by_width(narrowed) <= 200.0
    # Head widths stay; block counts stay.
    assert [s.channels // h for s, h in zip(narrowed.down, narrowed.heads, strict=True)] == [16, 16]
    assert [s.resnets for s in narrowed.up] == [3, 3]
    UNet(narrowed)


def test_an_action_reads_as_a_sentence():
    assert str(Action("remove", ("mid_block.attentions.0",))) == "remove mid_block.attentions.0"
    assert json.dumps(str(Action("copy", ("a", "b")))) == '"copy a + b"'
