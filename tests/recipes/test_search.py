from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from sfmobile.bundle.manifest import ComponentName
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import LayerRecipe, Recipe, architecture_digest
from sfmobile.errors import UsageError
from sfmobile.observer import Observer, Unit
from sfmobile.recipes.plot import plot_sizes
from sfmobile.recipes.search import PHASES, Goal, Phase, SearchOptions, SearchResult, search_component
from sfmobile.recipes.signal import LatentSignal, Runs

RUNS = Runs(("a red apple", "two fish"), "", seed=0, steps=3, guidance_scale=2.0, latent_size=(8, 8))
HELD_OUT = Runs(("a yellow star", "a cat", "a tree"), "", seed=70, steps=3, guidance_scale=2.0, latent_size=(8, 8))


class Log(Observer):
    """What a search reported."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, int] = {}

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        self.current = what
        self.totals[what] = total
        self.done[what] = 0

    def advance(self, units: int = 1) -> None:
        self.done[self.current] += units


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def same_signal(tiny_checkpoint: Checkpoint, log: Log) -> SearchResult:
    options = SearchOptions(goal=Goal("signal of", 4), target="ios17", curve=True)
    return search_component(tiny_checkpoint, "unet", RUNS, options, log)


@pytest.fixture(scope="module")
def same_size(tiny_checkpoint: Checkpoint) -> SearchResult:
    return search_component(tiny_checkpoint, "unet", RUNS, SearchOptions(goal=Goal("size of", 4), target="ios17"))


def uniform(result: SearchResult, bits: int) -> tuple[int, float]:
    point = next(point for point in result.uniform if point.label == f"{bits} bits")
    return point.bytes, point.measured.final_db


def test_at_the_signal_of_uniform_bits_a_recipe_is_smaller(same_signal: SearchResult) -> None:
    size, signal = uniform(same_signal, 4)
    assert same_signal.point.measured.final_db >= signal
    assert same_signal.point.bytes < 0.95 * size


def test_at_the_size_of_uniform_bits_a_recipe_is_better_in_runs_and_in_single_calls(same_size: SearchResult) -> None:
    size, signal = uniform(same_size, 4)
    assert same_size.point.bytes <= size
    assert same_size.point.measured.final_db > signal + 1
    assert same_size.point.measured.call_db > same_size.uniform[0].measured.call_db + 1


def test_prompts_and_noise_that_were_not_searched_with_gain_too(
    tiny_checkpoint: Checkpoint, same_size: SearchResult
) -> None:
    held_out = LatentSignal(tiny_checkpoint, HELD_OUT)
    held_out.network.store(dict.fromkeys(held_out.network.shapes, LayerRecipe(bits=4)))
    signal = held_out.final_db()
    held_out.network.store(same_size.choice.storages)
    assert held_out.final_db() > signal + 1


def test_expected_and_measured_signals_agree(same_signal: SearchResult) -> None:
    """To first order: at 4 bits and more within 3 dB."""
    points = [*same_signal.uniform, *same_signal.curve]
    fine = [point for point in points if point.measured.final_db > 25]
    assert len(fine) >= 4
    assert max(abs(point.expected_db - point.measured.final_db) for point in fine) < 3


def test_recipes_of_every_size_beat_uniform_bits_of_no_smaller_one(same_signal: SearchResult) -> None:
    sizes = [point.bytes for point in same_signal.uniform]
    signals = [point.measured.final_db for point in same_signal.uniform]
    for point in same_signal.curve:
        assert point.measured.final_db > np.interp(point.bytes, sizes, signals)


def test_uniform_bits_are_compared_over_all_that_the_target_stores(same_signal: SearchResult) -> None:
    assert [point.label for point in same_signal.uniform] == [f"{bits} bits" for bits in (1, 2, 4, 6, 8)]
    assert all(storage.group_size is None for storage in same_signal.choice.storages.values())


def test_what_is_reported_adds_up(same_signal: SearchResult, log: Log) -> None:
    phases: list[Phase] = ["reference", "palettizing", "sensitivities", "uniform bits", "recipe", "curve"]
    assert list(log.totals) == [f"unet: {PHASES[phase]}" for phase in phases]
    for what, total in log.totals.items():
        assert total is None or log.done[what] == total, what
    assert list(same_signal.seconds) == phases


def test_the_recipe_names_every_layer_and_the_architecture_and_survives_its_file(
    same_signal: SearchResult, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    written = Recipe(default=LayerRecipe(bits=6), components={"unet": same_signal.recipe()})
    written.write(tmp_path / "recipe.json")
    read = Recipe.read(tmp_path / "recipe.json")
    assert read == written and set(read.components["unet"].layers) == set(same_signal.layers)
    assert json.loads((tmp_path / "recipe.json").read_text())["components"]["unet"]["architecture"] == (
        architecture_digest(LatentSignal(tiny_checkpoint, RUNS).network.shapes)
    )


def test_a_group_per_channels_is_worth_its_tables_on_ios18(
    tiny_checkpoint: Checkpoint, same_signal: SearchResult
) -> None:
    options = SearchOptions(goal=Goal("signal of", 4), target="ios18", group_sizes=(16,), probes=3)
    found = search_component(tiny_checkpoint, "unet", RUNS, options)
    assert {storage.group_size for storage in found.choice.storages.values()} <= {None, 16}
    assert found.point.bytes <= same_signal.point.bytes * 1.01


@pytest.mark.parametrize("component", ["text_encoder", "decoder"])
def test_other_components_reach_a_signal_at_their_own_output(
    tiny_checkpoint: Checkpoint, component: ComponentName
) -> None:
    found = search_component(tiny_checkpoint, component, RUNS, SearchOptions(goal=Goal("signal", 30.0)))
    size, signal = uniform(found, 6)
    assert 30.0 <= found.point.measured.final_db < signal and found.point.bytes < size


def test_the_plot_is_a_picture_with_a_panel_for_each_component(same_signal: SearchResult, tmp_path: Path) -> None:
    plot_sizes([same_signal], tmp_path / "one.png", "one")
    plot_sizes([same_signal, same_signal], tmp_path / "two.png", "two")
    widths = []
    for name in ("one", "two"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        widths.append(struct.unpack(">I", content[16:20])[0])
    assert widths[1] == 2 * widths[0]


def test_an_average_of_bits_is_kept_to(tiny_checkpoint: Checkpoint) -> None:
    one_run = Runs(("a red apple",), "", seed=0, steps=1, guidance_scale=1.0, latent_size=(8, 8))
    options = SearchOptions(goal=Goal("bits", 6.5), target="ios17", probes=1)
    found = search_component(tiny_checkpoint, "unet", one_run, options)
    bits = 8 * found.point.bytes / tiny_checkpoint.parameters("unet")
    assert 6.2 < bits <= 6.5 and [point.label for point in found.uniform] == ["6 bits"]
    with pytest.raises(UsageError, match="--average-bits 1 is too little for unet: at least"):
        search_component(tiny_checkpoint, "unet", one_run, SearchOptions(goal=Goal("bits", 1), probes=1))
