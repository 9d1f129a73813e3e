"""Exact weighted 1-D k-means over fp16 values.

An fp16 tensor has at most 65,536 distinct values, so k-means over any number of weights is k-means over a histogram.
In one dimension clusters are intervals and the cost w(i, j) of one interval is a Monge function (the concave quadrangle
inequality), so

- the best cost f(k) is convex in k: with a price lambda on each cluster, the optimum over any number of clusters has
  the k we want for the right lambda (Aggarwal, Schieber and Tokuyama, "Finding a minimum-weight k-link path in graphs
  with the concave Monge property", 1994);
- for one lambda, the optimum is a least-weight subsequence, found in O(n log n) by a queue of candidates, each best on
  one interval (Galil and Park 1990);
- where f is straight and no lambda gives exactly k, two optima with fewer and more clusters splice into one with k.

That costs a few passes over the distinct values whatever k is, where the dynamic programme over clusters costs k.
The loops are compiled by numba at first use and cached; they release the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.compiled import compiled

Float = NDArray[np.float64]
Int = NDArray[np.int64]

CODES = 65536
# Search steps before the bracket is spliced as it stands; about six are used.
MAX_STEPS = 60


@dataclass(frozen=True)
class Palette:
    """Lookup table (2**bits,) fp16 in rising order of weights `codes` (uint16, as fp16 is written, of their shape).

    nearest: (65536,) uint8, the index of each code's entry in the table; 0 for codes that no weight has. error is the
    weighted sum of squared differences; price is the search's result, a good start for a similar tensor.
    """

    lut: NDArray[np.float16]
    nearest: NDArray[np.uint8]
    codes: NDArray[np.uint16]
    error: float
    price: float

    @cached_property
    def indices(self) -> NDArray[np.uint8]:
        """Index of each weight's entry, of the weights' shape."""
        indices = np.empty(self.codes.size, np.uint8)
        _look_up(self.codes.reshape(-1), self.nearest, indices)
        return indices.reshape(self.codes.shape)

    def packed(self) -> NDArray[np.uint8]:
        """`indices` as `pack_bits` packs them, without storing them in between."""
        return _pack(self.codes.reshape(-1), self.nearest, (self.lut.size - 1).bit_length())


@compiled
def _count(codes: NDArray[np.uint16], histogram: Float) -> None:
    """Add the number of each code to `histogram` (65536,)."""
    for code in codes:
        histogram[code] += 1.0


@compiled
def _count_weighted(codes: NDArray[np.uint16], importance: NDArray[np.float32], histogram: Float) -> None:
    """Add each code's importance to `histogram` (65536,)."""
    for position in range(codes.size):
        histogram[codes[position]] += importance[position]


@compiled
def _distinct(
    histogram: Float, order: NDArray[np.uint16], table: NDArray[np.float32], values: Float, weights: Float
) -> int:
    """Values with a positive weight in rising order, and their weights; returns how many."""
    count = 0
    for code in order:
        weight = histogram[code]
        if weight > 0.0:
            value = table[code]
            if count > 0 and values[count - 1] == value:  # -0 and +0
                weights[count - 1] += weight
            else:
                values[count] = value
                weights[count] = weight
                count += 1
    return count


@compiled
def _prefix_sums(values: Float, weights: Float) -> Float:
    """Moments (3, n + 1) of weight, weight * value and weight * value**2, summed outward from the value nearest zero.

    Summing outward keeps the dense middle of a weight distribution exact beside a few large outliers.
    """
    n = values.size
    pivot = np.searchsorted(values, 0.0)
    sums = np.zeros((3, n + 1))
    for step in range(pivot, n):
        sums[0, step + 1] = sums[0, step] + weights[step]
        sums[1, step + 1] = sums[1, step] + weights[step] * values[step]
        sums[2, step + 1] = sums[2, step] + weights[step] * values[step] * values[step]
    for step in range(pivot - 1, -1, -1):
        sums[0, step] = sums[0, step + 1] - weights[step]
        sums[1, step] = sums[1, step + 1] - weights[step] * values[step]
        sums[2, step] = sums[2, step + 1] - weights[step] * values[step] * values[step]
    return sums


@compiled
def _cost(sums: Float, start: int, stop: int) -> float:
    """Weighted squared error of values[start:stop] around their mean."""
    first = sums[1, stop] - sums[1, start]
    cost: float = sums[2, stop] - sums[2, start] - first * first / (sums[0, stop] - sums[0, start])
    return cost


@compiled
def _cheapest(sums: Float, price: float, best: Float, previous: Int, candidates: Int, starts: Int) -> tuple[int, float]:
    """Clusters minimising cost + price * clusters; fills `previous` and returns their number and the bare cost."""
    n = best.size - 1
    best[0] = 0.0
    head = tail = 0
    candidates[0] = 0
    starts[0] = 1
    for stop in range(1, n + 1):
        while head < tail and starts[head + 1] <= stop:
            head += 1
        start = candidates[head]
        best[stop] = best[start] + _cost(sums, start, stop) + price
        previous[stop] = start
        if stop == n:
            break
        # From which end on does a cluster that starts at `stop` beat the last candidate? Monge: from then on always.
        while True:
            last = candidates[tail]
            low = max(starts[tail], stop + 1)
            if best[stop] + _cost(sums, stop, low) < best[last] + _cost(sums, last, low):
                if tail > head:
                    tail -= 1
                    continue
                candidates[tail] = stop
                starts[tail] = low
                break
            # It doesn't at `low`. Gallop, then bisect: the takeover is usually near.
            stride = 1
            high = low + 1
            while high <= n and best[stop] + _cost(sums, stop, high) >= best[last] + _cost(sums, last, high):
                low = high
                stride *= 2
                high = low + stride
            if high > n:
                if best[stop] + _cost(sums, stop, n) >= best[last] + _cost(sums, last, n):
                    break
                high = n
            while high - low > 1:
                middle = (low + high) // 2
                if best[stop] + _cost(sums, stop, middle) < best[last] + _cost(sums, last, middle):
                    high = middle
                else:
                    low = middle
            tail += 1
            candidates[tail] = stop
            starts[tail] = high
            break
    clusters = 0
    cost = 0.0
    stop = n
    while stop > 0:
        start = previous[stop]
        cost += _cost(sums, start, stop)
        clusters += 1
        stop = start
    return clusters, cost


@compiled
def _path(previous: Int, clusters: int) -> Int:
    """Cluster boundaries (clusters + 1,) from 0 to n."""
    path = np.empty(clusters + 1, np.int64)
    stop = previous.size - 1
    for position in range(clusters, 0, -1):
        path[position] = stop
        stop = previous[stop]
    path[0] = 0
    return path


@compiled
def _splice(fewer: Int, more: Int, clusters: int) -> Int:
    """A path of `clusters` clusters from two optimal ones with fewer and more, itself optimal by the Monge property."""
    shift = clusters - (fewer.size - 1)
    path = np.empty(clusters + 1, np.int64)
    for link in range(fewer.size - 1):
        if fewer[link] <= more[link + shift] and more[link + shift + 1] <= fewer[link + 1]:
            path[: link + shift + 1] = more[: link + shift + 1]
            path[link + shift + 1 :] = fewer[link + 1 :]
            break
    return path


@compiled
def _first_price(values: Float, weights: Float, clusters: int) -> float:
    """Price for `clusters` clusters by high-resolution theory: f(k) = (integral of p**(1/3))**3 / 12 k**2."""
    integral = 0.0
    for position in range(1, values.size):
        gap = values[position] - values[position - 1]
        integral += (0.5 * (weights[position] + weights[position - 1]) * gap * gap) ** (1.0 / 3.0)
    return integral**3 / (6.0 * clusters**3)


@compiled
def _solve(values: Float, weights: Float, clusters: int, hint: float) -> tuple[Int, float]:
    """Boundaries (clusters + 1,) of the best `clusters` intervals of n > clusters values, and the price behind them."""
    n = values.size
    sums = _prefix_sums(values, weights)
    best = np.empty(n + 1)
    previous = np.empty(n + 1, np.int64)
    candidates = np.empty(n + 1, np.int64)
    starts = np.empty(n + 2, np.int64)
    # One cluster and n clusters bracket every other number.
    fewer = np.array([0, n])
    fewer_cost = _cost(sums, 0, n)
    fewer_price = np.inf
    more = np.arange(n + 1)
    more_cost = 0.0
    more_price = 0.0
    if clusters == 1:
        return fewer, fewer_price
    price = hint if hint > 0.0 else _first_price(values, weights, clusters)
    chord = False
    for _ in range(MAX_STEPS):
        count, cost = _cheapest(sums, price, best, previous, candidates, starts)
        if count == clusters:
            return _path(previous, count), price
        stuck = chord and (count <= fewer.size - 1 or count >= more.size - 1)
        if count < clusters:
            if count > fewer.size - 1 or fewer_price == np.inf:
                fewer, fewer_cost, fewer_price = _path(previous, count), cost, price
        elif count < more.size - 1 or more_price == 0.0:
            more, more_cost, more_price = _path(previous, count), cost, price
        if stuck:
            break
        # f(k) falls about as k**-2 and the price as k**-3; near the goal the chord between the brackets is exact.
        price *= (count / clusters) ** 3
        chord = more.size - fewer.size <= 6 or not more_price < price < fewer_price
        if chord:
            price = (fewer_cost - more_cost) / (more.size - fewer.size)
    return _splice(fewer, more, clusters), price


@compiled
def _centroids(values: Float, weights: Float, path: Int) -> Float:
    """Weighted mean of each cluster."""
    means = np.empty(path.size - 1)
    for cluster in range(means.size):
        total = 0.0
        moment = 0.0
        for position in range(path[cluster], path[cluster + 1]):
            total += weights[position]
            moment += weights[position] * values[position]
        means[cluster] = moment / total
    return means


@compiled
def _assign(
    present: NDArray[np.bool_],
    order: NDArray[np.uint16],
    table: NDArray[np.float32],
    lut: NDArray[np.float32],
    nearest: NDArray[np.uint8],
) -> None:
    """Index of the entry of the rising `lut` that is nearest to the value of each code that is there."""
    entry = 0
    for code in order:
        if present[code]:
            value = table[code]
            while entry + 1 < lut.size and lut[entry + 1] - value <= value - lut[entry]:
                entry += 1
            nearest[code] = entry


@compiled
def _look_up(codes: NDArray[np.uint16], nearest: NDArray[np.uint8], indices: NDArray[np.uint8]) -> None:
    """Write the entry nearest to each code (M,) into `indices` (M,)."""
    for position in range(codes.size):
        indices[position] = nearest[codes[position]]


@compiled
def _squared_error(
    histogram: Float, table: NDArray[np.float32], lut: NDArray[np.float32], nearest: NDArray[np.uint8]
) -> float:
    error = 0.0
    for code in range(histogram.size):
        if histogram[code] > 0.0:
            difference = float(table[code]) - float(lut[nearest[code]])
            error += histogram[code] * difference * difference
    return error


@compiled
def _pack(codes: NDArray[np.uint16], entries: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """`entries` of the codes (M,), of `bits` bits each, packed from the least significant bit on."""
    packed = np.zeros((codes.size * bits + 7) // 8, np.uint8)
    # Eight entries are a whole number of bytes: no bit is carried from group to group, and nothing waits for it.
    groups = codes.size // 8
    shift = np.uint64(bits)
    for group in range(groups):
        start = 8 * group
        word = np.uint64(entries[codes[start + 7]])
        word = (word << shift) | np.uint64(entries[codes[start + 6]])
        word = (word << shift) | np.uint64(entries[codes[start + 5]])
        word = (word << shift) | np.uint64(entries[codes[start + 4]])
        word = (word << shift) | np.uint64(entries[codes[start + 3]])
        word = (word << shift) | np.uint64(entries[codes[start + 2]])
        word = (word << shift) | np.uint64(entries[codes[start + 1]])
        word = (word << shift) | np.uint64(entries[codes[start]])
        for byte in range(bits):
            packed[group * bits + byte] = word & np.uint64(0xFF)
            word >>= np.uint64(8)
    word = np.uint64(0)
    for position in range(codes.size - 1, 8 * groups - 1, -1):
        word = (word << shift) | np.uint64(entries[codes[position]])
    for byte in range(groups * bits, packed.size):
        packed[byte] = word & np.uint64(0xFF)
        word >>= np.uint64(8)
    return packed


def pack_bits(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Indices of `bits` bits each, packed from the least significant bit on, as MIL's constexpr_lut_to_dense reads
    them: (M,) to (ceil(M * bits / 8),)."""
    return _pack(indices.astype(np.uint16), np.arange(1 << 8, dtype=np.uint8), bits)


def _fp16_table() -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Value of each of the 65,536 fp16 codes, and the codes of finite values in rising order of value."""
    codes = np.arange(CODES, dtype=np.uint16)
    table = codes.view(np.float16).astype(np.float32)
    finite = codes[np.isfinite(table)]
    return table, finite[np.argsort(table[finite], kind="stable")]


TABLE, ORDER = _fp16_table()
NOT_FINITE = np.setdiff1d(np.arange(CODES, dtype=np.uint16), ORDER)


def palettize(
    weights: NDArray[np.float16],
    bits: int,
    importance: NDArray[np.float32] | None = None,
    price: float = 0.0,
) -> Palette:
    """The lookup table of 2**bits fp16 values with the least squared error over `weights`, and which entry is whose.

    weights: fp16, any shape. bits: 1 to 8. importance: a non-negative factor on each weight's squared error,
    broadcastable to the weights' shape. price: a `Palette.price` of a similar tensor, to start the search from.
    Raises `ValueError` for weights that are infinite or NaN and for importances that are not finite and positive.
    """
    if weights.dtype != np.float16:
        raise ValueError(f"expected float16 weights, found {weights.dtype}")
    if not 1 <= bits <= 8:
        raise ValueError(f"expected 1 to 8 bits, found {bits}")
    codes = np.ascontiguousarray(weights).view(np.uint16)
    counts = np.zeros(CODES)
    _count(codes.reshape(-1), counts)
    if counts[NOT_FINITE].any():
        raise ValueError("weights hold infinite values or NaN")
    histogram = counts
    if importance is not None:
        spread = np.broadcast_to(np.asarray(importance, np.float32), weights.shape).reshape(-1)
        if not (np.isfinite(spread).all() and (spread >= 0).all() and spread.any()):
            raise ValueError("importances must be finite, not negative, and not all zero")
        histogram = np.zeros(CODES)
        _count_weighted(codes.reshape(-1), spread, histogram)
    values, masses = np.empty(CODES), np.empty(CODES)
    distinct = _distinct(histogram, ORDER, TABLE, values, masses)
    values, masses = values[:distinct], masses[:distinct]
    clusters = 1 << bits
    if distinct > clusters:
        path, price = _solve(values, masses, clusters, price)
        centroids = _centroids(values, masses, path)
    else:
        # Every value has its own entry; the last is repeated to fill the table.
        centroids = np.pad(values, (0, clusters - distinct), mode="edge")
    # Rounding to fp16 moves centroids, so assignment is to the nearest rounded one rather than by cluster.
    lut = centroids.astype(np.float16)
    rounded = lut.astype(np.float32)
    nearest = np.zeros(CODES, np.uint8)
    _assign(counts > 0, ORDER, TABLE, rounded, nearest)
    error = _squared_error(histogram, TABLE, rounded, nearest)
    return Palette(lut=lut, nearest=nearest, codes=codes, error=error, price=price)
