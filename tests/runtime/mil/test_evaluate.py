"""Evaluation of whole programs: precision, tracing, memory, wrong inputs."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.mil import plan as planning
from sfmobile.runtime.mil.evaluate import Evaluator, OpResult
from sfmobile.runtime.mil.plan import Manner, make_plan, rounded, run_steps
from tests.runtime.mil.programs import make_program

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(1, 4, 8, 8)).astype(np.float16)
FIRST, SECOND = (RANDOM.normal(scale=0.3, size=(4, 4, 3, 3)).astype(np.float16) for _ in range(2))


def chain(x: Any) -> Any:
    hidden = mb.conv(x=x, weight=FIRST, pad_type="same", name="first")
    hidden = mb.silu(x=hidden, name="act")
    return mb.conv(x=hidden, weight=SECOND, pad_type="same", name="second")


def test_fp16_evaluation_rounds_after_every_operation() -> None:
    found = Evaluator(make_program(chain, {"x": X}), "fp16")({"x": X})["second"]
    hidden = torch.from_numpy(X).float()
    for step in (
        lambda v: torch.conv2d(v, torch.from_numpy(FIRST).float(), padding=1),
        torch.nn.functional.silu,
        lambda v: torch.conv2d(v, torch.from_numpy(SECOND).float(), padding=1),
    ):
        hidden = step(hidden).half().float()
    np.testing.assert_array_equal(found, hidden.numpy())


def test_fp16_evaluation_rounds_inputs_and_fp32_doesnt() -> None:
    wide = X.astype(np.float32) + 1e-5
    program = make_program(lambda x: mb.identity(x=x, name="y"), {"x": X})
    np.testing.assert_array_equal(Evaluator(program, "fp16")({"x": wide})["y"], wide.astype(np.float16))
    np.testing.assert_array_equal(Evaluator(program, "fp32")({"x": wide})["y"], wide)


def test_float32_operations_of_a_mixed_program_arent_rounded() -> None:
    def mixed(x: Any) -> Any:
        return mb.cast(x=mb.exp(x=mb.cast(x=x, dtype="fp32"), name="wide"), dtype="fp16", name="y")

    seen: dict[str, np.ndarray] = {}
    evaluator = Evaluator(make_program(mixed, {"x": X}), "fp16")
    evaluator.trace({"x": X}, lambda result: seen.__setitem__(result.output, result.value))
    exact = torch.from_numpy(X).float().exp()
    np.testing.assert_array_equal(seen["wide"], exact.numpy())
    np.testing.assert_array_equal(seen["y"], exact.half().float().numpy())


def test_rounding_overflows_to_infinity_and_keeps_nan() -> None:
    values = torch.tensor([65519.0, 65520.0, -1e9, float("nan"), 1e-8])
    expected = torch.tensor([65504.0, torch.inf, -torch.inf, float("nan"), 0.0])
    torch.testing.assert_close(rounded(values), expected, rtol=0, atol=0, equal_nan=True)


def test_a_trace_shows_every_operation_in_order_with_its_type() -> None:
    results: list[OpResult] = []
    program = make_program(chain, {"x": X})
    outputs = Evaluator(program).trace({"x": X}, results.append)
    assert [(result.kind, result.output) for result in results] == [
        ("conv", "first"),
        ("silu", "act"),
        ("conv", "second"),
    ]
    assert [result.position for result in results] == [operation.position for operation in program.operations]
    assert results[0].type == TensorType("fp16", (1, 4, 8, 8))
    np.testing.assert_array_equal(results[-1].value, outputs["second"])
    np.testing.assert_array_equal(
        results[0].value, torch.conv2d(*(torch.from_numpy(v).float() for v in (X, FIRST)), padding=1)
    )


def test_a_trace_shows_constant_subgraphs_that_a_run_computes_once() -> None:
    def body(x: Any) -> Any:
        return mb.add(x=x, y=mb.exp(x=mb.const(val=np.float16(1.0)), name="e"), name="y")

    results: list[OpResult] = []
    evaluator = Evaluator(make_program(body, {"x": X}))
    traced = evaluator.trace({"x": X}, results.append)["y"]
    assert [result.output for result in results] == ["e", "y"]
    np.testing.assert_array_equal(evaluator({"x": X})["y"], traced)
    assert len(evaluator._plan.steps) == 1


def test_a_trace_checks_shapes_against_their_declarations() -> None:
    program = make_program(chain, {"x": X})
    first = program.operations[0]
    first.outputs[0][1].__dict__["shape"] = (1, 4, 8, 9)
    with pytest.raises(ArtifactError, match=r"'first' \(conv\) declares 'first' as fp16\[1, 4, 8, 9\]"):
        Evaluator(program).trace({"x": X}, lambda result: None)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (lambda x: mb.relu(x=x, name="y"), r"'y' \(relu\) declares 2 outputs, but gives 1"),
        (lambda x: mb.split(x=x, num_splits=2, axis=1, name="y"), r"'y' \(split\) declares 3 outputs, but gives 2"),
        (lambda x: mb.exp(x=mb.const(val=np.float16(1.0)), name="y"), r"'y' \(exp\) declares 2 outputs, but gives 1"),
    ],
)
def test_an_operation_that_declares_more_outputs_than_it_has_is_named(body: Any, found: str) -> None:
    """Not run with what is left over unset: that would fail wherever the missing value is read, if it is."""
    program = make_program(body, {"x": X})
    (operation,) = program.operations
    program.operations[0] = replace(operation, outputs=(*operation.outputs, ("more", operation.outputs[0][1])))
    for run in (lambda: Evaluator(program)({"x": X}), lambda: Evaluator(program).trace({"x": X}, lambda result: None)):
        with pytest.raises(ArtifactError, match=found):
            run()


def test_all_outputs_of_a_split_are_traced() -> None:
    results: list[OpResult] = []
    program = make_program(lambda x: mb.split(x=x, num_splits=2, axis=1, name="parts"), {"x": X})
    Evaluator(program).trace({"x": X}, results.append)
    np.testing.assert_array_equal(np.concatenate([result.value for result in results], axis=1), X)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_lean_evaluator_gives_the_same_and_keeps_no_weights(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_LEAN_ELEMENTS", 16)
    program = make_program(chain, {"x": X})
    lean = Evaluator(program, precision, fuse=False, lean=True)
    full = Evaluator(program, precision, fuse=False)
    np.testing.assert_array_equal(lean({"x": X})["second"], full({"x": X})["second"])
    held = [value for value in lean._plan.initial if value is not None and value.numel() > 16]
    assert not held


def test_tensors_are_freed_after_their_last_use() -> None:
    """While a step runs, of all earlier results only those still to be used are alive."""
    program = make_program(chain, {"x": X})
    plan = make_plan(program, "fp32", Manner(reuse=False, fuse=False))
    slots = plan.initial.copy()
    slots[plan.inputs["x"]] = torch.from_numpy(X).float()
    results: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def observe(operation: Any, values: list[torch.Tensor]) -> None:
        results.append(weakref.ref(values[0]))
        alive.append(sum(reference() is not None for reference in results))

    run_steps(plan, program, slots, observe)
    # The operand of the running step and its result.
    assert alive == [1, 2, 2]
    assert slots[plan.inputs["x"]] is None


def test_a_plan_can_be_run_again() -> None:
    evaluator = Evaluator(make_program(chain, {"x": X}))
    first = evaluator({"x": X})["second"]
    np.testing.assert_array_equal(evaluator({"x": 2 * X})["second"].shape, first.shape)
    np.testing.assert_array_equal(evaluator({"x": X})["second"], first)


def test_an_output_may_be_an_input_or_a_constant() -> None:
    def body(x: Any) -> Any:
        return mb.identity(x=x, name="same"), mb.const(val=np.float16([1.0, 2.0]), name="fixed")

    outputs = Evaluator(make_program(body, {"x": X}))({"x": X})
    np.testing.assert_array_equal(outputs["same"], X)
    np.testing.assert_array_equal(outputs["fixed"], [1.0, 2.0])


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({}, r"lacks its input 'x' of type fp16\[1, 4, 8, 8\]"),
        ({"x": X, "y": X}, "has no input 'y'; it takes x"),
        ({"x": X[0]}, r"Input 'x' of program\.mlpackage has shape \(4, 8, 8\); expected fp16\[1, 4, 8, 8\]"),
    ],
)
def test_wrong_inputs_are_one_sentence(inputs: dict[str, np.ndarray], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        Evaluator(make_program(chain, {"x": X}))(inputs)
