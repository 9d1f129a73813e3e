"""Activations against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional as F

from sfmobile.errors import UnavailableError
from tests.runtime.mil.programs import assert_matches, evaluate, make_program

X = np.random.default_rng(0).normal(scale=3, size=(2, 3, 4, 5)).astype(np.float32)
x = torch.from_numpy(X)


@pytest.mark.parametrize(
    ("kind", "attributes", "expected"),
    [
        ("relu", {}, F.relu(x)),
        ("relu6", {}, F.relu6(2 * x)),
        ("clamped_relu", {"alpha": 0.3, "beta": 1.5}, torch.where(x >= 0, x.clamp(max=1.5), (0.3 * x).clamp(max=1.5))),
        ("clamped_relu", {"alpha": -2.0, "beta": 1.5}, torch.where(x >= 0, x, -2 * x).clamp(max=1.5)),
        ("leaky_relu", {"alpha": 0.1}, F.leaky_relu(x, 0.1)),
        ("thresholded_relu", {"alpha": 0.7}, torch.where(x >= 0.7, x, 0.0)),
        ("elu", {"alpha": 0.8}, F.elu(x, 0.8)),
        ("linear_activation", {"alpha": 1.5, "beta": -0.5}, 1.5 * x - 0.5),
        ("sigmoid", {}, torch.sigmoid(x)),
        ("sigmoid_hard", {"alpha": 0.2, "beta": 0.5}, (0.2 * x + 0.5).clamp(0, 1)),
        ("silu", {}, F.silu(x)),
        ("softplus", {}, F.softplus(x)),
        ("softsign", {}, F.softsign(x)),
        ("scaled_tanh", {"alpha": 1.7, "beta": 0.6}, 1.7 * torch.tanh(0.6 * x)),
        ("gelu", {}, F.gelu(x)),
        ("gelu", {"mode": "EXACT"}, F.gelu(x)),
        ("gelu", {"mode": "TANH_APPROXIMATION"}, F.gelu(x, approximate="tanh")),
        ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, x * torch.sigmoid(1.702 * x)),
        ("softmax", {}, x.softmax(-1)),
        ("softmax", {"axis": 1}, x.softmax(1)),
        ("softmax", {"axis": -3}, x.softmax(-3)),
    ],
)
def test_activation_matches_torch(kind: str, attributes: dict[str, Any], expected: torch.Tensor) -> None:
    scale = 2 if kind == "relu6" else 1
    floats = {name: np.float32(v) if isinstance(v, float) else v for name, v in attributes.items()}
    assert_matches(lambda a: getattr(mb, kind)(x=a, **floats), expected, scale * X)


def test_prelu_has_one_slope_per_channel() -> None:
    alpha = np.array([0.1, -0.2, 0.5], dtype=np.float32)
    assert_matches(lambda a: mb.prelu(x=a, alpha=alpha), F.prelu(x, torch.from_numpy(alpha)), X)


def test_softplus_parametric_has_parameters_per_channel() -> None:
    alpha, beta = (np.array(v, dtype=np.float32) for v in ([0.5, 1.0, 2.0], [1.0, 0.3, -1.0]))
    a, b = (torch.from_numpy(v).view(-1, 1, 1) for v in (alpha, beta))
    expected = a * torch.log(1 + torch.exp(x * b))
    assert_matches(lambda v: mb.softplus_parametric(x=v, alpha=alpha, beta=beta), expected, X)


def test_activations_are_rounded_to_float16_in_fp16_evaluation() -> None:
    half = X.astype(np.float16)
    (found,) = evaluate(lambda a: mb.silu(x=a), half, precision="fp16")
    np.testing.assert_array_equal(found, F.silu(torch.from_numpy(half).float()).half().float())
    (wide,) = evaluate(lambda a: mb.silu(x=a), half, precision="fp32")
    np.testing.assert_array_equal(wide, F.silu(torch.from_numpy(half).float()))


def test_an_unknown_mode_names_operation_package_and_position() -> None:
    from sfmobile.mlpackage.program import Constant
    from sfmobile.mlpackage.types import TensorType
    from sfmobile.runtime.mil.evaluate import Evaluator

    program = make_program(lambda a: mb.gelu(x=mb.relu(x=a), name="gate"), {"a": X})
    gelu = program.operations[-1]
    gelu.inputs["mode"] = (Constant(TensorType("string", ()), lambda: "FAST"),)
    with pytest.raises(
        UnavailableError, match=rf"program\.mlpackage: operation {gelu.position} 'gate' \(gelu\) .*'FAST'"
    ):
        Evaluator(program)
