from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.errors import ArtifactError, GateError, UsageError
from sfmobile.recipes.storages import (
    Choice,
    LayerOptions,
    OptionTable,
    palettize_layers,
    search_signal,
    smallest,
    storages,
)

FULL = LayerRecipe(bits=16)


def weight(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(5, shape).astype(np.float16)


SHAPES = {"a": (32, 16, 3, 3), "b": (64, 32, 1, 1), "c": (16, 64, 1, 1), "d": (48, 16, 3, 3)}


SCALES = {"a": 1.0, "b": 30.0, "c": 1000.0, "d": 3.0}


def make_table(target: str = "ios18") -> OptionTable:
    """Four layers whose sensitivities differ a thousandfold: the change is so many times the error of the weights."""
    weights = {name: weight(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    rows = {}
    for name, layer in palettize_layers(weights, storages(target)).items():
        coded = [storage for storage in layer.storages if storage != FULL]
        changes = [SCALES[name] * palettize_weight(weights[name], storage).error for storage in coded]
        rows[name] = layer.options(np.array(changes))
    return OptionTable(rows, peak=1000.0)


@pytest.fixture(scope="module")
def table() -> OptionTable:
    return make_table()


def test_three_bits_and_groups_are_for_ios18_alone() -> None:
    assert {storage.bits for storage in storages("ios17")} == {1, 2, 4, 6, 8, 16}
    assert all(storage.group_size is None for storage in storages("ios16"))
    assert {(storage.bits, storage.group_size) for storage in storages("ios18", (8,))} >= {
        (3, None),
        (3, 8),
        (16, None),
    }


def test_tables_rise_and_belong_to_their_storages() -> None:
    original = weight((32, 16, 3, 3))
    done: list[int] = []
    layer = palettize_layers({"a": original}, storages("ios18", (8, 7)), done.append)["a"]
    assert {storage.group_size for storage in layer.storages} == {None, 8}
    assert layer.storages[-1] == FULL and len(layer.palettes.tables) == len(layer.storages) - 1
    for storage, table in zip(layer.storages, layer.palettes.tables, strict=False):
        assert table.shape == (32 // (storage.group_size or 32), 2**storage.bits)
        assert (np.diff(table, axis=1) >= 0).all()
        assert set(table.ravel()) == set(palettize_weight(original, storage).luts.astype(np.float32).ravel())
    assert sum(done) == len(layer.storages) * original.size


def test_a_weight_that_is_not_finite_is_named() -> None:
    broken = weight((32, 16, 3, 3))
    broken[3, 2] = np.inf
    with pytest.raises(ArtifactError, match="Weight 'mid' can't be palettized"):
        palettize_layers({"mid": broken}, storages("ios17"))


def test_changes_find_their_storages_and_sixteen_bits_change_nothing() -> None:
    layer = palettize_layers({"a": weight((32, 16, 1, 1))}, storages("ios17"))["a"]
    options = layer.options(np.array([5.0, 4.0, 3.0, 2.0, 1.0]))
    assert {storage.bits: options.errors[place] for place, storage in enumerate(options.storages)} == {
        1: 5.0,
        2: 4.0,
        4: 3.0,
        6: 2.0,
        8: 1.0,
        16: 0.0,
    }


def test_more_bits_cost_more_bytes_and_less_error(table: OptionTable) -> None:
    for row in table.layers.values():
        plain = [place for place, storage in enumerate(row.storages) if storage.group_size is None]
        assert (np.diff(row.bytes[plain]) > 0).all()
        assert (np.diff(row.errors[plain]) < 0).all()
        assert row.errors[row.index(FULL)] == 0


def test_groups_are_offered_only_where_they_divide_the_channels(table: OptionTable) -> None:
    assert LayerRecipe(bits=4, group_size=32) in table.layers["b"].storages
    assert LayerRecipe(bits=4, group_size=32) not in table.layers["d"].storages
    assert LayerRecipe(bits=4, group_size=32) not in table.layers["a"].storages  # all of its channels


def test_at_equal_size_a_choice_is_better_than_uniform_bits(table: OptionTable) -> None:
    uniform = table.uniform(LayerRecipe(bits=4))
    best = table.best(uniform.bytes)
    assert best.bytes <= uniform.bytes
    assert best.error < uniform.error / 4
    bits = {name: storage.bits for name, storage in best.storages.items()}
    assert bits["c"] > bits["a"]


def test_at_equal_error_a_choice_is_smaller_than_uniform_bits(table: OptionTable) -> None:
    uniform = table.uniform(LayerRecipe(bits=4))
    cheapest = table.cheapest(uniform.error)
    assert cheapest.error <= uniform.error * (1 + 1e-9)
    assert cheapest.bytes < 0.85 * uniform.bytes


def test_uniform_groups_fall_back_to_one_table_where_they_don_t_divide(table: OptionTable) -> None:
    uniform = table.uniform(LayerRecipe(bits=4, group_size=32))
    assert uniform.storages["b"].group_size == 32 and uniform.storages["d"].group_size is None


def test_a_size_below_one_bit_a_weight_is_refused(table: OptionTable) -> None:
    with pytest.raises(UsageError, match="can't be kept"):
        table.best(100)


def test_storages_that_were_not_compared_are_refused(table: OptionTable) -> None:
    with pytest.raises(UsageError, match="none of the storages compared"):
        table.layers["a"].index(LayerRecipe(bits=4, group_size=2))


def test_decibels_and_errors_are_each_other_s_inverse() -> None:
    table = OptionTable({}, peak=3.0)
    assert table.decibels(table.error(42.0)) == pytest.approx(42.0)
    assert table.decibels(0) == math.inf


def fine_table() -> OptionTable:
    """Fifty layers of many sizes, so that choices come close to any error."""
    rng = np.random.default_rng(0)
    bits = np.array([1, 2, 4, 6, 8, 16])
    options = tuple(LayerRecipe(bits=int(bit)) for bit in bits)
    rows = {}
    for layer in range(50):
        count, scale = rng.integers(2000, 50000), np.exp(rng.normal(0, 2))
        errors = count * scale * 4.0**-bits * (bits < 16)
        rows[str(layer)] = LayerOptions(options, count * bits // 8, errors)
    return OptionTable(rows, peak=1000.0)


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(lambda expected: expected, id="as expected"),
        pytest.param(lambda expected: expected - 6, id="6 dB worse"),
        pytest.param(lambda expected: expected + 5, id="5 dB better"),
        pytest.param(lambda expected: 20 + 0.6 * expected, id="bent"),
        pytest.param(lambda expected: expected - 3 - 2 * math.sin(3 * expected), id="uneven"),
    ],
)
def test_the_search_ends_close_above_the_wanted_signal(measure: Callable[[float], float]) -> None:
    table = fine_table()
    trials = list(search_signal(table, 45.0, lambda choice: measure(table.decibels(choice.error))))
    found = smallest(trials, 45.0)
    assert 45.0 <= found.measured_db < 46.0
    assert len(trials) <= 8


def test_a_signal_that_no_bits_reach_is_a_failed_gate() -> None:
    table = fine_table()
    trials = list(search_signal(table, 45.0, lambda _: 30.0, most_runs=3))
    with pytest.raises(GateError, match=r"No choice of bits reached 45.00 dB: the best of 3 measured 30.00 dB"):
        smallest(trials, 45.0)


def test_the_smallest_of_several_that_reach_the_signal_is_taken() -> None:
    table = fine_table()
    trials = list(search_signal(table, 45.0, lambda choice: table.decibels(choice.error) + 1, tolerance_db=0.01))
    reached: list[Choice] = [trial.choice for trial in trials if trial.measured_db >= 45.0]
    assert smallest(trials, 45.0).choice.bytes == min(choice.bytes for choice in reached)
