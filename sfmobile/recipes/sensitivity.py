"""How much the signal changes when a layer is stored in fewer bits, from a few backward passes and no trial runs.

To first order an error dW of a layer's weights changes the signal s (what of a run's result counts) by J dW, where J
are the signal's derivatives by the weights. With random signs v (Hutchinson), g = J^T v is the gradient of v . s and

    E <g, dW>^2 = |J dW|^2,

so one backward pass gives an estimate for every layer and every way of storing it at once, each with its own exact
error dW. Palettization errors aren't noise: channels shrink, kernels flatten, and what they share adds up; an estimate
from their size alone, sum of E g^2 dW^2, was up to ten times too low at 1 and 2 bits. But it varies less from pass to
pass, so it counts as much as a few passes (`PRIOR`).

Runs of a network that is called several times are followed backwards through all calls (the adjoint method): an early
error counts by what later calls make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfmobile.compress.compiled import compiled
from sfmobile.compress.kmeans import TABLE
from sfmobile.compress.palettize import worker_count
from sfmobile.recipes.streamed import WeightStream

Float32 = NDArray[np.float32]

# Backward passes that the estimate from the errors' size alone counts as.
PRIOR = 4.0


@dataclass(frozen=True)
class SampleCall:
    """One call of a network in a run.

    inputs: the forward's arguments by name, batch first. weights: (batch,). The call takes a state (C, H, W), in every
    row of the input named `state`, to the next one: carry * state + sum over rows of weights[row] * output[row].
    Without `state` the next one is the weighted sum alone.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    weights: Float32
    state: str | None = None
    carry: float = 0.0


@dataclass(frozen=True)
class SampleRun:
    """A run: calls in running order, each taking the state that the one before it gave. The signal is `scale` times
    the last state."""

    calls: tuple[SampleCall, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Palettes:
    """A layer's weight (O, ...), fp16, and lookup tables (groups, entries) for it, float32 with rising entries: every
    weight is stored as the nearest entry of its group's table, the higher one of two."""

    weight: NDArray[np.float16]
    tables: tuple[Float32, ...]


def measure_changes(
    net: nn.Module,
    layers: Mapping[str, Palettes],
    samples: Iterable[SampleRun],
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
    stream: WeightStream | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Mean squared change of the signal for each of `layers` (module names) stored by each of its tables alone.

    `net` computes in float32 with the weights as they are. Memory: its weights twice (gradients), and the activations
    of one call; with `stream`, which feeds it, those of one block, and what blocks are given. `advance` is told of each
    call. Raises `ValueError` without samples.
    """
    if stream is not None:
        return _measure_streamed(net, stream, layers, samples, seed, advance)
    weights = {name: _parameter(net, name) for name in layers}
    wanted = {id(weight) for weight in weights.values()}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    generator = torch.Generator().manual_seed(seed)
    along = {name: np.zeros(len(palettes.tables)) for name, palettes in layers.items()}
    alone = {name: np.zeros(len(palettes.tables)) for name, palettes in layers.items()}

    def take(name: str) -> None:
        gradient = weights[name].grad
        weights[name].grad = None
        if gradient is not None:
            projected, scattered = project(layers[name], gradient.numpy())
            along[name] += np.square(projected)
            alone[name] += scattered

    count = 0
    try:
        with ThreadPoolExecutor(worker_count()) as pool:
            for sample in samples:
                backward(net, sample, generator, advance)
                list(pool.map(take, layers))
                count += 1
    finally:
        net.requires_grad_(False)
    if count == 0:
        raise ValueError("no samples to measure changes with")
    return {name: (along[name] + PRIOR / count * alone[name]) / (count + PRIOR) for name in layers}


def _measure_streamed(
    net: nn.Module,
    stream: WeightStream,
    layers: Mapping[str, Palettes],
    samples: Iterable[SampleRun],
    seed: int,
    advance: Callable[[int], None] | None,
) -> dict[str, NDArray[np.float64]]:
    """`measure_changes` without ever holding a gradient of more than one layer.

    <g, dW> adds up over the calls of a run as g does. g^2 dW^2 doesn't: here calls count apart, as if what they do to
    one weight were unrelated; that part only steadies the estimate.
    """
    generator = torch.Generator().manual_seed(seed)
    run = {name: np.zeros(len(palettes.tables)) for name, palettes in layers.items()}
    along = {name: np.zeros(len(palettes.tables)) for name, palettes in layers.items()}
    alone = {name: np.zeros(len(palettes.tables)) for name, palettes in layers.items()}

    def take(key: str, gradient: Tensor) -> None:
        name = key.removesuffix(".weight")
        projected, scattered = project(layers[name], gradient.numpy())
        run[name] += projected
        alone[name] += scattered

    stream.wanted, stream.take = {f"{name}.weight" for name in layers}, take
    count = 0
    try:
        for sample in samples:
            backward(net, sample, generator, advance)
            for name, total in run.items():
                along[name] += np.square(total)
                total[:] = 0
            count += 1
    finally:
        stream.wanted = ()
    if count == 0:
        raise ValueError("no samples to measure changes with")
    return {name: (along[name] + PRIOR / count * alone[name]) / (count + PRIOR) for name in layers}


def _parameter(net: nn.Module, layer: str) -> nn.Parameter:
    weight = net.get_submodule(layer).weight
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"layer '{layer}' has no weight")
    return weight


def backward(
    net: nn.Module,
    sample: SampleRun,
    generator: torch.Generator,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Leave the gradient of random signs times the sample's signal in the weights that require one.

    From the last call to the first, the gradient by the state behind a call becomes that by the state in front of it.
    """
    adjoint: Tensor | None = None
    for call in reversed(sample.calls):
        arguments = {name: torch.from_numpy(np.array(value)) for name, value in call.inputs.items()}
        if call.state is not None:
            arguments[call.state].requires_grad_(True)
        with torch.enable_grad():
            output = net(**arguments)
        if adjoint is None:
            signs = torch.randint(0, 2, output.shape[1:], generator=generator).to(output.dtype) * 2 - 1
            adjoint = sample.scale * signs
        torch.autograd.backward(output, torch.tensordot(torch.from_numpy(call.weights), adjoint, dims=0))
        if advance is not None:
            advance(1)
        if call.state is None:
            return
        gradient = arguments[call.state].grad
        adjoint = call.carry * adjoint
        if gradient is not None:
            adjoint = adjoint + gradient.sum(0)


def project(layer: Palettes, gradient: Float32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each of the layer's tables, with dW the error of storing by it and g the gradient: sum(g dW) and
    sum(g^2 dW^2)."""
    sums = np.zeros((2, len(layer.tables)))
    for groups in {len(tables) for tables in layer.tables}:
        # An error is a function of the fp16 value, so that one pass over the weights serves every table.
        codes = np.ascontiguousarray(layer.weight).view(np.uint16).reshape(groups, -1)
        slopes = np.ascontiguousarray(gradient).reshape(groups, -1)
        places = [place for place, tables in enumerate(layer.tables) if len(tables) == groups]
        for group in range(groups):
            values, first, second = _by_value(codes[group], slopes[group])
            for place in places:
                sums[:, place] += _project(values, first, second, layer.tables[place][group])
    return sums[0], sums[1]


def _by_value(codes: NDArray[np.uint16], slopes: Float32) -> tuple[Float32, NDArray[np.float64], NDArray[np.float64]]:
    """Values, the sum of gradients at each, and the sum of their squares; few weights are left as they are."""
    if codes.size <= TABLE.size:
        exact = slopes.astype(np.float64)
        return TABLE[codes], exact, np.square(exact)
    first, second = np.zeros(TABLE.size), np.zeros(TABLE.size)
    _sum_by_code(codes, slopes, first, second)
    met = np.flatnonzero(second)
    return TABLE[met], first[met], second[met]


def _sum_by_code_loop(
    codes: NDArray[np.uint16], slopes: Float32, first: NDArray[np.float64], second: NDArray[np.float64]
) -> None:
    for position in range(codes.size):
        slope = np.float64(slopes[position])
        first[codes[position]] += slope
        second[codes[position]] += slope * slope


def _project_loop(
    values: Float32, first: NDArray[np.float64], second: NDArray[np.float64], table: Float32
) -> tuple[float, float]:
    along = alone = 0.0
    for position in range(values.size):
        value = values[position]
        low, high = 0, table.size - 1
        while low < high:
            middle = (low + high) // 2
            if value + value >= table[middle] + table[middle + 1]:
                low = middle + 1
            else:
                high = middle
        change = np.float64(table[low]) - value
        along += first[position] * change
        alone += second[position] * change * change
    return along, alone


_sum_by_code = cast("Callable[..., None]", compiled(_sum_by_code_loop))
_project = cast("Callable[..., tuple[float, float]]", compiled(_project_loop))
