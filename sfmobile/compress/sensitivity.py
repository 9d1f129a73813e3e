"""How much the output of a network changes with each of its weights, from a few backward passes.

To first order an error dW of one layer changes the signal s (what of the output counts) by J dW, where J are the
signal's derivatives by the weights. A palettized weight is off in two ways. Each output channel o shrinks, because a
cluster's mean is nearer to zero than most of its members: dW_o has a part b_o W_o along the channel itself. What is
left has no preferred direction. So

    E |J dW|^2 = E |J (b W)|^2 + sum over weights of |column of J|^2 (dW - b W)^2.

With random signs v (Hutchinson), g = J^T v is the gradient of v . s, E g^2 are the squared columns of J, and
E (sum over o of b_o <g_o, W_o>)^2 is the first term: one backward pass gives an estimate of both for all layers at
once. Squared columns are kept as one factor per output and one per input channel, as Adafactor keeps second moments
(arXiv 1804.04235): statistics of a layer's output gradients and of its input activations.
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
    """What one layer's weights do to the signal.

    rows (output channels,), columns (input channels,), averaging 1: rows[o] * columns[i] is the squared change of the
    signal per squared change of a weight (o, i, ...). slopes (samples, output channels): change of v . signal, for each
    sample's signs v, per relative change of all weights of an output channel.
    """

    rows: Float32
    columns: Float32
    slopes: Float32


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
    return {name: accumulated.result() for name, accumulated in sums.items()}


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
    """What is kept of the gradients of one layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self._rows = torch.zeros(weight.shape[0], dtype=torch.float64)
        self._columns = torch.zeros(weight.shape[1], dtype=torch.float64)
        self._slopes: list[Tensor] = []

    def take_gradient(self) -> None:
        """Take the gradient of one sample, and free it."""
        gradient = self.weight.grad
        if gradient is None:
            gradient = torch.zeros_like(self.weight)
        self.weight.grad = None
        squared = gradient.square().reshape(*self.weight.shape[:2], -1).sum(2)
        self._rows += squared.sum(1)
        self._columns += squared.sum(0)
        self._slopes.append((gradient * self.weight.detach()).flatten(1).sum(1))

    def result(self) -> LayerSensitivity:
        """Averages over the samples."""
        rows = self._rows / (len(self._slopes) * self.weight[0].numel())
        average = self._columns.mean()
        columns = self._columns / average if average > 0 else torch.ones_like(self._columns)
        return LayerSensitivity(rows.float().numpy(), columns.float().numpy(), torch.stack(self._slopes).numpy())
