"""Recurrent layers: one step of a sequence after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op

Activation = Literal["hard_sigmoid", "sigmoid_hard", "linear", "relu", "scaled_tanh", "sigmoid", "tanh"]
Direction = Literal["forward", "reverse"]

# The hard one with Core ML's default constants, the scaled one with 1 and 1: so coremltools' own tests have them.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _steps(count: int, direction: str) -> range:
    return range(count - 1, -1, -1) if direction == "reverse" else range(count)


def _sequence(outputs: dict[int, Tensor], last: Tensor, whole: bool) -> Tensor:
    """(S, B, H) in the order in which the steps were computed, the last first where the direction is reverse, or
    (1, B, H) of the step computed last."""
    return torch.stack(list(outputs.values())) if whole and outputs else last.unsqueeze(0)


@op("rnn")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    *,
    direction: Direction = "forward",
    output_sequence: bool = False,
    activation: Activation = "tanh",
) -> Sequence[Tensor]:
    """MIL `rnn`. x (S, B, I), initial_h (B, H), weight_ih (H, I), weight_hh (H, H), bias (H)."""
    inputs = torch.nn.functional.linear(x, weight_ih, bias)
    hidden, outputs = initial_h, {}
    for place in _steps(x.shape[0], direction):
        hidden = _ACTIVATIONS[activation](inputs[place] + hidden @ weight_hh.T)
        outputs[place] = hidden
    return _sequence(outputs, hidden, output_sequence), hidden


@op("gru")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    input_bias: Tensor | None = None,
    *,
    direction: Direction = "forward",
    output_sequence: bool = False,
    recurrent_activation: Activation = "sigmoid",
    activation: Activation = "tanh",
    reset_after: bool = False,
) -> Sequence[Tensor]:
    """MIL `gru`. x (S, B, I), initial_h (B, H), weight_ih (3 H, I), weight_hh (3 H, H): gates reset, output, update.

    The reset gate acts on the hidden state before its matrix product, or behind it with `reset_after` (as torch's).
    """
    size = initial_h.shape[-1]
    inputs = torch.nn.functional.linear(x, weight_ih, input_bias)
    gate, new = _ACTIVATIONS[recurrent_activation], _ACTIVATIONS[activation]
    weight_r, weight_o, weight_z = weight_hh.chunk(3)
    zero = x.new_zeros(3 * size) if bias is None else bias
    bias_r, bias_o, bias_z = zero.chunk(3)
    hidden, outputs = initial_h, {}
    for place in _steps(x.shape[0], direction):
        from_r, from_o, from_z = inputs[place].chunk(3, dim=-1)
        reset = gate(from_r + hidden @ weight_r.T + bias_r)
        update = gate(from_z + hidden @ weight_z.T + bias_z)
        if reset_after:
            candidate = new(from_o + reset * (hidden @ weight_o.T + bias_o))
        else:
            candidate = new(from_o + (reset * hidden) @ weight_o.T + bias_o)
        hidden = (1 - update) * candidate + update * hidden
        outputs[place] = hidden
    return _sequence(outputs, hidden, output_sequence), hidden


@op("lstm")
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    *,
    direction: Literal["forward", "reverse", "bidirectional"] = "forward",
    output_sequence: bool = False,
    recurrent_activation: Activation = "sigmoid",
    cell_activation: Activation = "tanh",
    activation: Activation = "tanh",
    clip: float | None = None,
) -> Sequence[Tensor]:
    """MIL `lstm`. x (S, B, I), initial_h and initial_c (B, D H), weight_ih (4 H, I), weight_hh (4 H, H), peephole
    (3 H); gates input, forget, output, cell; D directions, forward first.

    `clip` holds the cell state within its bounds. Of both directions the sequences come in the order of the input, of
    "reverse" alone in that of computation.
    """
    activations = (recurrent_activation, cell_activation, activation)
    if direction != "bidirectional":
        whole, hidden, cell = _lstm(
            x, initial_h, initial_c, weight_ih, weight_hh, bias, peephole, direction, activations, clip
        )
        return whole if output_sequence else hidden.unsqueeze(0), hidden, cell
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("is bidirectional without weights for the way back")
    start_h, start_c = initial_h.chunk(2, dim=-1), initial_c.chunk(2, dim=-1)
    ways = [
        _lstm(x, start_h[0], start_c[0], weight_ih, weight_hh, bias, peephole, "forward", activations, clip),
        _lstm(
            x, start_h[1], start_c[1], weight_ih_back, weight_hh_back, bias_back, peephole_back, "reverse",
            activations, clip,
        ),
    ]  # fmt: skip
    (there, *ends), (back, *back_ends) = ways
    whole = torch.cat([there, back.flip(0)], dim=-1)
    hidden, cell = (torch.cat(parts, dim=-1) for parts in zip(ends, back_ends, strict=True))
    return whole if output_sequence else hidden.unsqueeze(0), hidden, cell


def _lstm(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    direction: str,
    activations: tuple[str, str, str],
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction: hidden states of every step (S, B, H), and hidden and cell state of the last."""
    gate, of_cell, of_output = (_ACTIVATIONS[name] for name in activations)
    size = hidden.shape[-1]
    inputs = torch.nn.functional.linear(x, weight_ih, bias)
    peek_i, peek_f, peek_o = (x.new_zeros(3 * size) if peephole is None else peephole).chunk(3)
    outputs = {}
    for place in _steps(x.shape[0], direction):
        i, f, o, z = (inputs[place] + hidden @ weight_hh.T).chunk(4, dim=-1)
        cell = gate(f + peek_f * cell) * cell + gate(i + peek_i * cell) * of_cell(z)
        if clip is not None:
            cell = cell.clamp(-clip, clip)
        hidden = gate(o + peek_o * cell) * of_output(cell)
        outputs[place] = hidden
    return _sequence(outputs, hidden, True), hidden, cell
