"""From a program to a plan: a flat list of torch calls over numbered slots, with everything decided beforehand.

Attributes are bound, constants decoded, constant subgraphs computed, operands resolved to slots, and each slot is
emptied behind its last use. Running a plan is then one loop of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sfmobile.errors import ArtifactError
from sfmobile.runtime.mil.ops import OPS, TORCH_TYPES, Op
from sfmobile.runtime.mil.program import Constant, Operation, Program

Precision: TypeAlias = Literal["fp32", "fp16"]
Slots: TypeAlias = "list[Tensor | None]"
Call: TypeAlias = "Callable[..., Tensor | Sequence[Tensor]]"

# What torch and the op functions raise on operands that don't go together.
_FAILURES = (ValueError, RuntimeError, TypeError, IndexError)

# Constants above this many elements are what a lean plan decodes anew for each use.
_LEAN_ELEMENTS = 65536


class Step(NamedTuple):
    """One call: `function(*slots[arguments])` fills `outputs`; then `spent` is emptied."""

    function: Call
    arguments: tuple[int, ...]
    outputs: tuple[int, ...]
    spent: tuple[int, ...]
    operation: Operation
    computes: bool  # False for a step that only decodes a weight for `operation`.


@dataclass
class Plan:
    """A program ready to run. Slot 0 is an absent optional operand."""

    precision: Precision
    initial: Slots
    inputs: dict[str, int]
    outputs: dict[str, int]
    steps: list[Step]


def constant_tensor(constant: Constant) -> Tensor:
    """A constant as the ops take it: floats as float32, integers in their own type or a wider one."""
    value = constant.load()
    if isinstance(value, str):
        raise ArtifactError(f"a string stands where a tensor of type {constant.type} is expected")
    wanted = TORCH_TYPES[constant.type.data_type]
    if value.dtype in (np.uint16, np.uint32, np.uint64):
        value = value.astype(np.int64)
    return torch.from_numpy(value).to(wanted)


def attribute_value(value: np.ndarray | str) -> object:
    """A constant attribute as plain Python: a scalar, or (nested) tuples of scalars."""
    if isinstance(value, str):
        return value
    return _tuples(value.tolist())


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def rounded(value: Tensor) -> Tensor:
    """float32 rounded to float16 and held wide again; beyond 65,504 it overflows to infinity, as in hardware."""
    return value.to(torch.float16).to(torch.float32)


def _round_outputs(function: Call, fp16: tuple[bool, ...], *arguments: Tensor | None) -> Tensor | Sequence[Tensor]:
    """Call `function` and round those of its outputs that are declared float16."""
    result = function(*arguments)
    if isinstance(result, Tensor):
        return rounded(result)
    return [rounded(value) if half else value for value, half in zip(result, fp16, strict=True)]


def _call(
    function: Call,
    fixed: int,
    dynamic: tuple[str, ...],
    attributes: dict[str, object],
    gathers: bool,
    *arguments: Tensor | None,
) -> Tensor | Sequence[Tensor]:
    """Call an op whose operands need shaping: a variadic last tensor, or attributes computed at run time."""
    computed = {
        name: _tuples(value.tolist())
        for name, value in zip(dynamic, arguments[len(arguments) - len(dynamic) :], strict=True)
        if value is not None
    }
    tensors = arguments[: len(arguments) - len(dynamic)]
    if gathers:
        return function(*tensors[:fixed], tensors[fixed:], **attributes, **computed)
    return function(*tensors, **attributes, **computed)


@dataclass
class _Bound:
    """An operation resolved against the op table: values it reads, in calling order, and the call."""

    operation: Operation
    op: Op
    call: Call
    operands: list[str | Constant | None]


def bind(program: Program, operation: Operation) -> _Bound:
    """Resolve names and attributes of `operation`. Raises `UnavailableError` for whatever the op table can't do."""
    entry = OPS.get(operation.kind)
    if entry is None:
        raise program.error(operation, "is an operation")
    unknown = set(operation.inputs) - set(entry.tensors) - set(entry.attributes)
    if unknown:
        raise program.error(operation, f"has an argument '{sorted(unknown)[0]}'")
    missing = entry.required - set(operation.inputs)
    if missing:
        raise ArtifactError(f"{program.package.name}: {operation} lacks its argument '{sorted(missing)[0]}'.")
    operands: list[str | Constant | None] = []
    gathers = False
    for name in entry.tensors:
        items = operation.inputs.get(name)
        if name in entry.variadic:
            gathers = True
            operands.extend(items or ())
        elif items is None:
            operands.append(None)
        else:
            operands.extend(_single(program, operation, name, items))
    fixed = sum(name not in entry.variadic for name in entry.tensors)
    attributes: dict[str, object] = {}
    dynamic: list[str] = []
    for name in entry.attributes:
        if name not in operation.inputs:
            continue
        constants = [program.constants.get(item) if isinstance(item, str) else item for item in operation.inputs[name]]
        values = [attribute_value(constant.load()) for constant in constants if constant is not None]
        if len(values) != len(constants):
            dynamic.append(name)
            operands.extend(_single(program, operation, name, operation.inputs[name]))
        elif name in entry.variadic:
            attributes[name] = tuple(values)
        else:
            _single(program, operation, name, operation.inputs[name])
            attributes[name] = values[0]
        if name in entry.choices and attributes.get(name) not in entry.choices[name]:
            raise program.error(operation, f"has {name} '{attributes.get(name)}'")
    call: Call
    if gathers or dynamic:
        call = partial(_call, entry.function, fixed, tuple(dynamic), attributes, gathers)
    else:
        while operands and operands[-1] is None:
            operands.pop()
        call = partial(entry.function, **attributes) if attributes else entry.function
    return _Bound(operation, entry, call, operands)


def _single(
    program: Program, operation: Operation, name: str, items: tuple[str | Constant, ...]
) -> tuple[str | Constant, ...]:
    if len(items) != 1:
        raise ArtifactError(f"{program.package.name}: {operation} has {len(items)} values for '{name}'; expected one.")
    return items


class _Builder:
    """Turns operations into steps, one by one."""

    def __init__(self, program: Program, precision: Precision, fold: bool, lean: bool) -> None:
        self.program = program
        self.precision = precision
        self.fold = fold
        self.lean = lean
        self.slots: dict[str, int] = {}
        self.initial: Slots = [None]
        self.folded: dict[str, Tensor] = {}
        self.steps: list[Step] = []

    def new_slot(self, name: str | None, value: Tensor | None = None) -> int:
        self.initial.append(value)
        if name is not None:
            self.slots[name] = len(self.initial) - 1
        return len(self.initial) - 1

    def operand(self, item: str | Constant | None, operation: Operation) -> int:
        """The slot that holds `item` when `operation` runs."""
        if item is None:
            return 0
        if isinstance(item, Constant):
            return self.new_slot(None, constant_tensor(item))
        if item in self.slots:
            return self.slots[item]
        if item in self.folded:
            return self.new_slot(item, self.folded[item])
        constant = self.program.constants[item]
        if self.lean and int(np.prod([size or 0 for size in constant.type.shape])) > _LEAN_ELEMENTS:
            slot = self.new_slot(None)
            self.steps.append(Step(partial(constant_tensor, constant), (), (slot,), (), operation, False))
            return slot
        return self.new_slot(item, constant_tensor(constant))

    def is_constant(self, item: str | Constant | None) -> bool:
        return not isinstance(item, str) or item in self.folded or item in self.program.constants

    def value(self, item: str | Constant | None) -> Tensor | None:
        """A constant operand's value, for folding."""
        if item is None:
            return None
        if isinstance(item, str) and item in self.folded:
            return self.folded[item]
        return constant_tensor(self.program.constants[item] if isinstance(item, str) else item)

    def compute(self, bound: _Bound, call: Call) -> Tensor | Sequence[Tensor]:
        """The result of an operation whose operands are all constant."""
        try:
            return call(*[self.value(item) for item in bound.operands])
        except _FAILURES as error:
            raise self.program.error(bound.operation, f"fails ({error})") from error

    def add(self, operation: Operation) -> None:
        bound = bind(self.program, operation)
        call: Call = bound.call
        fp16 = tuple(type_.data_type == "fp16" for _, type_ in operation.outputs)
        if self.precision == "fp16" and not bound.op.exact and any(fp16):
            call = partial(_round_outputs, call, fp16)
        if self.fold and all(self.is_constant(item) for item in bound.operands):
            result = self.compute(bound, call)
            values = [result] if isinstance(result, Tensor) else list(result)
            self.folded.update({name: value for (name, _), value in zip(operation.outputs, values, strict=True)})
            return
        arguments = tuple(self.operand(item, operation) for item in bound.operands)
        outputs = tuple(self.new_slot(name) for name, _ in operation.outputs)
        self.steps.append(Step(call, arguments, outputs, (), operation, True))

    def finish(self, outputs: Mapping[str, int]) -> list[Step]:
        """Steps with what each one empties: values used here for the last time, and results nobody uses."""
        kept = set(outputs.values()) | {slot for slot, value in enumerate(self.initial) if value is not None}
        last: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            last.update(dict.fromkeys((*step.outputs, *step.arguments), index))
        spent: list[list[int]] = [[] for _ in self.steps]
        for slot, index in last.items():
            if slot and slot not in kept:
                spent[index].append(slot)
        return [step._replace(spent=tuple(sorted(gone))) for step, gone in zip(self.steps, spent, strict=True)]


def make_plan(program: Program, precision: Precision, *, fold: bool = True, lean: bool = False) -> Plan:
    """Plan `program`. `fold` computes constant subgraphs now; `lean` leaves large weights in the mapped file and
    decodes them for each use.

    Raises `UnavailableError` naming package, operation and position for an op or attribute the table doesn't know,
    `ArtifactError` for weights that can't be read.
    """
    builder = _Builder(program, precision, fold, lean)
    inputs = {name: builder.new_slot(name) for name in program.inputs}
    with torch.inference_mode():
        for operation in program.operations:
            builder.add(operation)
        outputs = {name: builder.operand(name, program.operations[-1]) for name in program.outputs}
    return Plan(precision, builder.initial, inputs, outputs, builder.finish(outputs))


def run_steps(
    plan: Plan, program: Program, slots: Slots, observe: Callable[[Operation, list[Tensor]], None] | None = None
) -> None:
    """Run all steps over `slots`; `observe` is shown each operation's outputs."""
    step = None
    try:
        for step in plan.steps:
            result = step.function(*[slots[index] for index in step.arguments])
            if isinstance(result, Tensor):
                slots[step.outputs[0]] = result
            else:
                for index, value in zip(step.outputs, result, strict=True):
                    slots[index] = value
            if observe is not None and step.computes:
                observe(step.operation, [result] if isinstance(result, Tensor) else list(result))
            for index in step.spent:
                slots[index] = None
    except _FAILURES as error:
        assert step is not None
        raise program.error(step.operation, f"fails ({error})") from error
