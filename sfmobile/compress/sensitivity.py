"""How much the output of a network changes with each of its weights, from a few backward passes.

To first order a small error dW of layer l changes the signal s (what of the output counts) by J_l dW. Errors of
palettized weights have zero mean within each cluster, so the mean squared change is a sum over single weights,

    E |J_l dW|^2 = sum over weights of |column of J_l|^2 dW^2,

and |column of J_l|^2 is E (J_l^T v)^2 over random signs v (Hutchinson): the squared gradient of v . s. One backward
pass gives an estimate for all layers at once. It is kept as one factor per output channel and one per input channel,
as Adafactor keeps second moments (arXiv 1804.04235): these are statistics of a layer's output gradients and of its
input activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class CalibrationCall:
    """One call of a network: the forward's arguments by name, and the weight (batch,) of each output row."""

    inputs: Mapping[str, NDArray[np.generic]]
    weights: Float32


@dataclass(frozen=True)
class CalibrationSample:
    """What one signal is made of: sum over calls and rows of weight * output row, as the latents of one run are.

    Errors of the same weights in several calls add up with their signs, which is why they are taken together.
    """

    calls: tuple[CalibrationCall, ...]


@dataclass(frozen=True)
class LayerSensitivity:
    """Squared change of the signal per squared change of weight (o, i, ...): rows[o] * columns[i]; columns average 1.

    rows: (output channels,), columns: (input channels per group,), float32.
    """

    rows: Float32
    columns: Float32

    def importance(self, dimensions: int) -> Float32:
        """The sensitivities broadcastable to a weight of so many dimensions, scaled to average 1."""
        trailing = (1,) * (dimensions - 2)
        rows = self.rows / np.maximum(self.rows.mean(), np.finfo(np.float32).tiny)
        spread: Float32 = (rows[:, None] * self.columns[None, :]).reshape(len(rows), len(self.columns), *trailing)
        return spread


def measure_sensitivities(
    net: nn.Module,
    layers: Iterable[str],
    samples: Iterable[CalibrationSample],
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, LayerSensitivity]:
    """Sensitivity of the signal to each of `layers` (module names with a `weight`), averaged over `samples`.

    `net` computes in float32. Memory: its weights twice (gradients), and the activations of the largest call. A layer
    that the signal doesn't depend on has zeros. `advance` is told of each call. Raises `ValueError` without samples.
    """
    sums = {name: _Sums(_weight(net, name)) for name in layers}
    wanted = {id(accumulated.weight) for accumulated in sums.values()}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    generator = torch.Generator().manual_seed(seed)
    count = 0
    try:
        for sample in samples:
            _backward(net, sample, generator, advance)
            for accumulated in sums.values():
                accumulated.take_gradient()
            count += 1
    finally:
        net.requires_grad_(False)
    if count == 0:
        raise ValueError("no samples to measure sensitivities with")
    return {name: accumulated.mean(count) for name, accumulated in sums.items()}


def _weight(net: nn.Module, layer: str) -> nn.Parameter:
    weight = net.get_submodule(layer).weight
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"layer '{layer}' has no weight")
    return weight


def _backward(
    net: nn.Module, sample: CalibrationSample, generator: torch.Generator, advance: Callable[[int], None] | None
) -> None:
    """Leave the gradient of random signs times the sample's signal in the weights."""
    signs: Tensor | None = None
    for call in sample.calls:
        arguments = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in call.inputs.items()}
        with torch.enable_grad():
            signal = torch.tensordot(torch.from_numpy(call.weights), net(**arguments), dims=1)
            if signs is None:
                signs = torch.randint(0, 2, signal.shape, generator=generator).to(signal.dtype) * 2 - 1
            (signal * signs).sum().backward()
        if advance is not None:
            advance(1)


class _Sums:
    """Sums of squared gradients over the input and over the output channels of one layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self._rows = torch.zeros(weight.shape[0], dtype=torch.float64)
        self._columns = torch.zeros(weight.shape[1], dtype=torch.float64)

    def take_gradient(self) -> None:
        """Add the weight's gradient and free it."""
        if self.weight.grad is None:
            return
        squared = self.weight.grad.square().reshape(*self.weight.shape[:2], -1).sum(2)
        self.weight.grad = None
        self._rows += squared.sum(1)
        self._columns += squared.sum(0)

    def mean(self, count: int) -> LayerSensitivity:
        """The factors, per weight and sample."""
        in_row = self.weight[0].numel()
        rows = self._rows / (count * in_row)
        average = self._columns.mean()
        columns = self._columns / average if average > 0 else torch.ones_like(self._columns)
        return LayerSensitivity(rows.float().numpy(), columns.float().numpy())
