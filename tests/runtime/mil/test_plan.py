"""Plans: operands reused in place, weights laid out once, exactly what an unplanned run gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program import Constant, Program
from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.choices import Precision
from sfmobile.runtime.mil import packing
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.runtime.mil.ops import OPS
from sfmobile.runtime.mil.ops.inplace import INPLACE
from sfmobile.runtime.mil.plan import Manner, make_plan, run_steps
from tests.runtime.mil.programs import make_program

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float16)
Y = RANDOM.normal(size=(2, 3, 4)).astype(np.float16)
ROW = RANDOM.normal(size=(4,)).astype(np.float16)

UNARY = ["relu", "silu", "sigmoid", "gelu", "square", "tanh", "identity"]
BINARY = ["add", "sub", "mul"]


def run(program: Program, inputs: dict[str, np.ndarray], precision: Precision, manner: Manner) -> list[np.ndarray]:
    """Outputs of a plan made in this manner, copied at once."""
    plan = make_plan(program, precision, manner)
    slots = plan.initial.copy()
    for name, value in inputs.items():
        slots[plan.inputs[name]] = torch.from_numpy(value.astype(np.float32))
    with torch.inference_mode():
        run_steps(plan, program, slots)
    results = [slots[slot] for slot in plan.outputs.values()]
    return [value.clone().numpy() for value in results if value is not None]


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Operations over values 0, 1 (inputs), 2 (a row that is broadcast) and all earlier results."""
    steps = []
    for index in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(UNARY + BINARY + ["reshape", "split"]))
        # Recent values more often: that is where something can be overwritten.
        recent = st.integers(max(0, index), index + 2)
        steps.append((kind, draw(recent), draw(st.one_of(recent, st.integers(0, index + 2)))))
    return steps


@settings(max_examples=60, deadline=None)
@given(
    steps=graphs(),
    outputs=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    precision=st.sampled_from(["fp32", "fp16"]),
)
def test_overwriting_operands_never_changes_a_result(
    steps: list[tuple[str, int, int]], outputs: list[int], precision: Precision
) -> None:
    """Any graph of elementwise ops, views and parts: planned with reuse and without, to the bit."""

    def body(x: Any, y: Any) -> Any:
        values = [x, y, mb.const(val=ROW)]
        for kind, first, second in steps:
            a, b = values[first], values[second]
            if kind in BINARY:
                values.append(getattr(mb, kind)(x=a, y=b))
            elif kind == "reshape":
                values.append(mb.reshape(x=a, shape=a.shape))
            elif kind == "split":
                parts = mb.split(x=a, num_splits=2, axis=-1)
                values.append(mb.concat(values=(parts[1], mb.silu(x=parts[0])), axis=-1))
            else:
                values.append(getattr(mb, kind)(x=a))
        chosen = {index % (len(values) - 3) + 3: None for index in outputs} if len(values) > 3 else {0: None}
        return tuple(mb.identity(x=values[index]) for index in chosen)

    program = make_program(body, {"x": X, "y": Y})
    inputs = {"x": X, "y": Y}
    plain = run(program, inputs, precision, Manner(reuse=False, fuse=False, fold=False))
    reusing = run(program, inputs, precision, Manner(reuse=True, fuse=False))
    for value, expected in zip(reusing, plain, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_chain_of_elementwise_ops_runs_in_one_buffer() -> None:
    def body(x: Any, y: Any) -> Any:
        return mb.mul(x=y, y=mb.sigmoid(x=mb.add(x=mb.silu(x=x), y=y)))

    program = make_program(body, {"x": X, "y": Y})
    plan = make_plan(program, "fp32", Manner(fuse=False))
    seen: list[int] = []
    slots = plan.initial.copy()
    slots[plan.inputs["x"]], slots[plan.inputs["y"]] = torch.from_numpy(X).float(), torch.from_numpy(Y).float()
    with torch.inference_mode():
        run_steps(plan, program, slots, lambda operation, values: seen.append(values[0].data_ptr()))
    assert len(set(seen)) == 1


def test_inputs_are_never_overwritten() -> None:
    values = torch.from_numpy(X).float()
    before = values.clone()
    program = make_program(lambda x: mb.relu(x=mb.silu(x=x)), {"x": X})
    Evaluator(program)({"x": values})
    torch.testing.assert_close(values, before, rtol=0, atol=0)


def test_weights_are_never_overwritten() -> None:
    """A constant that an op could write over gives the same again."""

    def body(x: Any) -> Any:
        return mb.add(x=mb.silu(x=mb.const(val=Y)), y=x)

    evaluator = Evaluator(make_program(body, {"x": X}))
    first = next(iter(evaluator({"x": X}).values()))
    np.testing.assert_array_equal(next(iter(evaluator({"x": X}).values())), first)


@pytest.mark.parametrize("kind", INPLACE)
def test_overwriting_forms_compute_what_the_ordinary_ones_do(kind: str) -> None:
    x, y = torch.from_numpy(X).float(), torch.from_numpy(Y).float()
    operands = (x, y) if "y" in OPS[kind].tensors else (x,)
    modes = ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] if kind == "gelu" else [None]
    for mode in modes:
        attributes = {} if mode is None else {"mode": mode}
        expected = OPS[kind].function(*operands, **attributes)
        target = x.clone()
        found = INPLACE[kind](target, *operands[1:], **attributes)
        assert isinstance(found, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        assert found.data_ptr() == target.data_ptr()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert OPS[kind].fresh


def test_convolutions_and_linear_layers_hold_no_plain_weights() -> None:
    kernel, matrix = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float16), RANDOM.normal(size=(5, 6)).astype(np.float16)

    def body(x: Any) -> Any:
        hidden = mb.conv(x=x, weight=kernel, pad_type="same")
        return mb.linear(x=hidden, weight=matrix)

    image = RANDOM.normal(size=(1, 3, 6, 6)).astype(np.float16)
    program = make_program(body, {"x": image})
    plan = Evaluator(program)._plan
    assert packing.available()
    assert [len(step.arguments) for step in plan.steps] == [1, 1]
    assert all(value is None for value in plan.initial)


def test_without_onednn_the_plain_functions_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float16)
    image = RANDOM.normal(size=(1, 3, 6, 6)).astype(np.float16)
    program = make_program(lambda x: mb.conv(x=x, weight=kernel), {"x": image})
    packed = Evaluator(program)({"x": image})
    monkeypatch.setattr(packing, "available", lambda: False)
    evaluator = Evaluator(program)
    assert [len(step.arguments) for step in evaluator._plan.steps] == [2]
    for name, value in evaluator({"x": image}).items():
        np.testing.assert_allclose(value, packed[name], rtol=1e-5, atol=1e-5)


def test_images_run_with_channels_last_and_leave_contiguous() -> None:
    kernel = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float16)
    image = RANDOM.normal(size=(1, 3, 6, 6)).astype(np.float16)
    program = make_program(lambda x: mb.silu(x=mb.conv(x=x, weight=kernel)), {"x": image})
    evaluator = Evaluator(program)
    layouts = []
    slots = evaluator._fill(evaluator._plan, {"x": image})
    with torch.inference_mode():
        run_steps(
            evaluator._plan,
            program,
            slots,
            lambda operation, values: layouts.append(values[0].is_contiguous(memory_format=torch.channels_last)),
        )
    assert layouts == [True, True]
    (output,) = evaluator({"x": image}).values()
    assert output.flags.c_contiguous


def with_literals(program: Program) -> Program:
    """The program with its constants written into the operations that read them, as a valid program may have it."""
    operations = [
        replace(
            operation,
            inputs={
                name: tuple(program.constants.get(item, item) if isinstance(item, str) else item for item in items)
                for name, items in operation.inputs.items()
            },
        )
        for operation in program.operations
    ]
    return replace(program, operations=operations, constants={})


@pytest.mark.parametrize("reuse", [True, False])
def test_operands_written_into_an_operation_are_those_of_constants(reuse: bool) -> None:
    def body(x: Any) -> Any:
        return mb.mul(x=mb.add(x=mb.relu(x=x), y=ROW), y=np.float16(2))

    program = make_program(body, {"x": X})
    manner = Manner(reuse=reuse)
    (expected,) = run(program, {"x": X}, "fp16", manner)
    (found,) = run(with_literals(program), {"x": X}, "fp16", manner)
    np.testing.assert_array_equal(found, expected)


def test_operands_that_do_not_go_together_are_a_broken_program() -> None:
    program = make_program(lambda x: mb.add(x=mb.relu(x=x), y=ROW), {"x": X})
    bad = Constant(TensorType("fp16", (7,)), lambda: np.zeros(7, np.float16))
    relu, add = program.operations
    for operations in ([relu, replace(add, inputs=add.inputs | {"y": (bad,)})], [add, relu]):
        broken = replace(program, operations=operations)
        mend = r"; (look at the inputs, or )?export it again\.$"
        with pytest.raises(ArtifactError, match=r"'.*' \(\w+\) can't be computed \(.*\)" + mend):
            run(broken, {"x": X}, "fp32", Manner(fuse=False))
