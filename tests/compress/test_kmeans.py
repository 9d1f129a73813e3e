from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.compress import kmeans
from sfmobile.compress.kmeans import Palette, pack_bits, palettize

# coremltools runs an exact k-means from this many weights on, and scikit-learn's inexact one below.
SIZE = 10_000


def least_error(values: np.ndarray, weights: np.ndarray, clusters: int) -> float:
    """The optimum by the textbook dynamic programme, O(n**2 k), with costs computed directly."""
    n = len(values)

    def cost(start: int, stop: int) -> float:
        v, w = values[start:stop], weights[start:stop]
        return float((w * (v - np.average(v, weights=w)) ** 2).sum())

    best = np.array([0.0] + [np.inf] * n)
    for _ in range(min(clusters, n)):
        best = np.array(
            [np.inf] + [min(best[start] + cost(start, stop) for start in range(stop)) for stop in range(1, n + 1)]
        )
    return float(best[n])


def dense(palette: Palette) -> np.ndarray:
    return palette.lut.astype(np.float64)[palette.indices]


def squared_error(weights: np.ndarray, palette: Palette) -> float:
    return float(((weights.astype(np.float64) - dense(palette)) ** 2).sum())


def trained_weights() -> np.ndarray:
    """A layer after a few hundred steps of real training: heavier tails than a normal distribution."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 160), torch.nn.ReLU(), torch.nn.Linear(160, 64))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    mixing = torch.randn(64, 64)
    for _ in range(200):
        x = torch.randn(64, 64)
        loss = ((net(x) - (x @ mixing).tanh()) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net[0].weight.detach().half().numpy()


def samples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    outlier = random.normal(0, 0.01, SIZE)
    outlier[7] = -6e4
    return {
        "normal": random.normal(0, 0.02, (40, 28, 3, 3)).astype(np.float16),
        "heavy tails": (random.standard_t(3, SIZE) * 0.02).astype(np.float16),
        "trained": trained_weights(),
        "one far outlier": outlier.astype(np.float16),
        "few distinct": random.choice([-1.0, 0.0, 0.5, 3.0], SIZE).astype(np.float16),
        "uniform grid": (np.arange(SIZE) % 300).astype(np.float16),
    }


# Values a half apart are exact in fp16 up to 1024, so the boundaries are what is tested, not the rounding.
grid = st.lists(st.tuples(st.integers(-200, 200), st.integers(1, 9)), min_size=2, max_size=16, unique_by=lambda x: x[0])


@given(grid, st.data())
@settings(max_examples=100, deadline=None)
def test_clusters_are_optimal_for_every_count(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    pairs = sorted(pairs)
    values = np.array([value for value, _ in pairs], float)
    weights = np.array([weight for _, weight in pairs], float)
    clusters = data.draw(st.integers(1, len(values) - 1))
    path, _ = kmeans._solve(values, weights, clusters, data.draw(st.sampled_from([0.0, 1e-3, 1.0, 1e6])))
    sums = kmeans._prefix_sums(values, weights)
    found = sum(kmeans._cost(sums, path[i], path[i + 1]) for i in range(clusters))
    assert path[0] == 0 and path[-1] == len(values) and (np.diff(path) > 0).all()
    assert found == pytest.approx(least_error(values, weights, clusters), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("count", range(1, 20))
def test_equal_spacing_where_no_price_gives_the_count_is_spliced_to_the_optimum(count: int) -> None:
    values, weights = np.arange(20.0), np.ones(20)
    path, _ = kmeans._solve(values, weights, count, 0.0)
    sums = kmeans._prefix_sums(values, weights)
    found = sum(kmeans._cost(sums, path[i], path[i + 1]) for i in range(count))
    assert found == pytest.approx(least_error(values, weights, count), abs=1e-9)


CASES = [(name, bits) for name in samples() for bits in (2, 4, 6)] + [("trained", bits) for bits in (1, 3, 8)]


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_error_is_never_above_that_of_coremltools(name: str, bits: int) -> None:
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    weights = samples()[name]
    theirs = palettize_weights.blockwise_compress(weights, "KMEANS", bits, [0] * weights.ndim)
    their_dense = theirs.lut.reshape(-1).astype(np.float64)[theirs.indices]
    their_error = float(((weights.astype(np.float64) - their_dense) ** 2).sum())
    # Both tables are rounded to fp16; a tie between two optima may round a hair differently.
    assert squared_error(weights, palettize(weights, bits)) <= their_error * (1 + 1e-5)


@pytest.mark.parametrize("name", samples())
def test_reported_error_is_the_error(name: str) -> None:
    weights = samples()[name]
    palette = palettize(weights, 4)
    assert palette.error == pytest.approx(squared_error(weights, palette), rel=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_every_weight_takes_the_nearest_entry_of_a_full_rising_table(bits: int) -> None:
    weights = samples()["heavy tails"]
    palette = palettize(weights, bits)
    table = palette.lut.astype(np.float64)
    assert palette.lut.shape == (2**bits,) and (np.diff(table) >= 0).all()
    distances = np.abs(weights.astype(np.float64)[:, None] - table[None])
    np.testing.assert_array_equal(np.abs(weights.astype(np.float64) - dense(palette)), distances.min(axis=1))


def test_few_distinct_values_are_kept_exactly() -> None:
    weights = samples()["few distinct"]
    for bits in (2, 4, 8):
        palette = palettize(weights, bits)
        np.testing.assert_array_equal(palette.lut[palette.indices], weights)
        assert palette.error == 0.0


def test_constant_and_both_zeros_are_one_value() -> None:
    weights = np.array([0.0, -0.0, 0.0, -0.0], np.float16)
    assert palettize(weights, 1).error == 0.0
    np.testing.assert_array_equal(palettize(np.full(5, 3.0, np.float16), 1).lut, [3.0, 3.0])


def test_importance_moves_entries_to_where_it_counts() -> None:
    weights = samples()["normal"]
    importance = np.where(weights > 0, 100.0, 1.0).astype(np.float32)
    plain, weighted = palettize(weights, 3), palettize(weights, 3, importance)

    def error(palette: Palette) -> float:
        return float((importance * (weights.astype(np.float64) - dense(palette)) ** 2).sum())

    assert error(weighted) < 0.7 * error(plain)
    assert weighted.error == pytest.approx(error(weighted), rel=1e-5)


def test_importance_that_repeats_equals_repeating_the_weights() -> None:
    random = np.random.default_rng(1)
    weights = random.normal(size=400).astype(np.float16)
    times = random.integers(1, 5, 400)
    repeated = palettize(np.repeat(weights, times), 4)
    weighted = palettize(weights, 4, times.astype(np.float32))
    np.testing.assert_array_equal(weighted.lut, repeated.lut)


def test_importance_by_input_channel_is_broadcast() -> None:
    weights = samples()["normal"]
    by_channel = np.linspace(0, 3, weights.shape[1], dtype=np.float32)[None, :, None, None]
    spread = palettize(weights, 4, np.broadcast_to(by_channel, weights.shape))
    np.testing.assert_array_equal(palettize(weights, 4, by_channel).indices, spread.indices)


def test_values_without_importance_still_get_the_nearest_entry() -> None:
    weights = np.array([0.0, 1.0, 2.0, 3.0, 10.0], np.float16)
    palette = palettize(weights, 1, np.array([1, 0, 0, 1, 0], np.float32))
    np.testing.assert_array_equal(palette.lut, [0.0, 3.0])
    np.testing.assert_array_equal(dense(palette), [0.0, 0.0, 3.0, 3.0, 3.0])


@pytest.mark.parametrize("hint", [1e-12, 1e-3, 1e9])
def test_a_bad_first_guess_changes_nothing(hint: float) -> None:
    weights = samples()["trained"]
    np.testing.assert_array_equal(palettize(weights, 6, price=hint).lut, palettize(weights, 6).lut)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="infinite values or NaN"):
        palettize(np.array([1.0, bad, 2.0], np.float16), 2)


@pytest.mark.parametrize("importance", [[1, -1, 1], [0, 0, 0], [1, np.inf, 1], [1, np.nan, 1]])
def test_importances_that_mean_nothing_are_refused(importance: list[float]) -> None:
    with pytest.raises(ValueError, match="importances"):
        palettize(np.array([1, 2, 3], np.float16), 1, np.array(importance, np.float32))


def test_other_dtypes_and_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        palettize(np.ones(3, np.float32), 2)  # type: ignore[arg-type]
    for bits in (0, 9):
        with pytest.raises(ValueError, match="1 to 8 bits"):
            palettize(np.ones(3, np.float16), bits)


# The first call compiles or loads the kernels.
@settings(deadline=None)
@given(st.integers(1, 8), st.binary(min_size=1, max_size=70))
def test_packed_bits_read_back_as_coremltools_reads_them(bits: int, content: bytes) -> None:
    from coremltools.optimize import _utils as coreml

    indices = np.frombuffer(content, np.uint8) & np.uint8((1 << bits) - 1)
    packed = pack_bits(indices, bits)
    np.testing.assert_array_equal(packed, coreml.pack_elements_into_bits(indices, bits))
    np.testing.assert_array_equal(coreml.restore_elements_from_packed_bits(packed, bits, indices.size), indices)
