"""Recurrent layers against torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.runtime.mil.programs import assert_matches

RNG = np.random.default_rng(0)
STEPS, BATCH, IN, HIDDEN = 5, 2, 3, 4
X = RNG.normal(size=(STEPS, BATCH, IN)).astype(np.float32)
H = RNG.normal(size=(BATCH, HIDDEN)).astype(np.float32)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32) / 2


def reordered(weight: torch.Tensor, order: list[int]) -> np.ndarray:
    """torch's gates in the order of MIL's."""
    parts = weight.detach().chunk(len(order))
    return torch.cat([parts[place] for place in order]).numpy()


def flipped(direction: str, sequence: torch.Tensor) -> torch.Tensor:
    """What torch is fed for "reverse"; its outputs then come in the same order as Core ML's."""
    return sequence.flip(0) if direction == "reverse" else sequence


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm_matches_torch(direction: str, whole: bool) -> None:
    both = direction == "bidirectional"
    net = torch.nn.LSTM(IN, HIDDEN, bidirectional=both)
    h, c = normal(1 + both, BATCH, HIDDEN), normal(1 + both, BATCH, HIDDEN)
    with torch.no_grad():
        out, (h1, c1) = net(flipped(direction, torch.from_numpy(X)), (torch.from_numpy(h), torch.from_numpy(c)))
    side = lambda value: torch.cat(list(value), dim=-1)  # noqa: E731
    weights: dict[str, Any] = {}
    for end, suffix in (("", ""), ("_back", "_reverse"))[: 1 + both]:
        for kind in ("ih", "hh"):
            weights[f"weight_{kind}{end}"] = reordered(getattr(net, f"weight_{kind}_l0{suffix}"), [0, 1, 3, 2])
        bias = getattr(net, f"bias_ih_l0{suffix}") + getattr(net, f"bias_hh_l0{suffix}")
        weights[f"bias{end}"] = reordered(bias, [0, 1, 3, 2])

    def body(x: Any, h0: Any, c0: Any) -> Any:
        return mb.lstm(x=x, initial_h=h0, initial_c=c0, direction=direction, output_sequence=whole, **weights)

    expected = out if whole else side(h1).unsqueeze(0)
    start = [np.concatenate(list(value), axis=-1) for value in (h, c)]
    assert_matches(body, [expected, side(h1), side(c1)], X, *start)


def test_lstm_with_peepholes_and_clip_follows_its_formulas() -> None:
    w_ih, w_hh, peep, c = normal(4 * HIDDEN, IN), normal(4 * HIDDEN, HIDDEN), normal(3 * HIDDEN), normal(BATCH, HIDDEN)
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    i, f, o, z = np.split(X[0] @ w_ih.T + H @ w_hh.T, 4, axis=-1)
    p_i, p_f, p_o = np.split(peep, 3)
    cell = np.clip(sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(z), -0.3, 0.3)
    hidden = sigmoid(o + p_o * cell) * np.maximum(cell, 0)

    def body(x: Any, h0: Any, c0: Any) -> Any:
        return mb.lstm(
            x=x, initial_h=h0, initial_c=c0, weight_ih=w_ih, weight_hh=w_hh, peephole=peep, clip=0.3, activation="relu"
        )

    assert_matches(body, [hidden[None], hidden, cell], X[:1], H, c)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rnn_matches_torch(direction: str) -> None:
    net = torch.nn.RNN(IN, HIDDEN)
    with torch.no_grad():
        out, last = net(flipped(direction, torch.from_numpy(X)), torch.from_numpy(H[None]))
    weight_ih, weight_hh = net.weight_ih_l0.detach().numpy(), net.weight_hh_l0.detach().numpy()
    bias = (net.bias_ih_l0 + net.bias_hh_l0).detach().numpy()

    def body(x: Any, h0: Any) -> Any:
        return mb.rnn(
            x=x,
            initial_h=h0,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias=bias,
            direction=direction,
            output_sequence=True,
        )

    assert_matches(body, [out, last[0]], X, H)


def test_gru_that_resets_behind_the_product_matches_torch() -> None:
    net = torch.nn.GRU(IN, HIDDEN)
    with torch.no_grad():
        out, last = net(torch.from_numpy(X), torch.from_numpy(H[None]))
    order = [0, 2, 1]

    def body(x: Any, h0: Any) -> Any:
        return mb.gru(
            x=x,
            initial_h=h0,
            weight_ih=reordered(net.weight_ih_l0, order),
            weight_hh=reordered(net.weight_hh_l0, order),
            bias=reordered(net.bias_hh_l0, order),
            input_bias=reordered(net.bias_ih_l0, order),
            output_sequence=True,
            reset_after=True,
        )

    assert_matches(body, [out, last[0]], X, H, target="ios18")


def test_gru_that_resets_before_the_product_follows_its_formulas() -> None:
    w_ih, w_hh, bias = normal(3 * HIDDEN, IN), normal(3 * HIDDEN, HIDDEN), normal(3 * HIDDEN)
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    x_r, x_o, x_z = np.split(X[-1] @ w_ih.T + bias, 3, axis=-1)
    w_r, w_o, w_z = np.split(w_hh, 3)
    reset, update = sigmoid(x_r + H @ w_r.T), sigmoid(x_z + H @ w_z.T)
    hidden = (1 - update) * np.tanh(x_o + (reset * H) @ w_o.T) + update * H

    def body(x: Any, h0: Any) -> Any:
        return mb.gru(x=x, initial_h=h0, weight_ih=w_ih, weight_hh=w_hh, bias=bias, direction="reverse")

    assert_matches(body, [hidden[None], hidden], X[-1:], H)
