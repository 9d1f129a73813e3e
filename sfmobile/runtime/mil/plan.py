"""From a program to a plan: a flat list of torch calls over numbered slots, with everything decided beforehand.

Attributes are bound, constants decoded, constant subgraphs computed, operands resolved to slots, and each slot is
emptied behind its last use. Running a plan is then one loop of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from sfmobile.errors import ArtifactError, SfmobileError
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import Constant, Operand, Operation, Program
from sfmobile.mlpackage.rewriting import rewrite
from sfmobile.runtime.choices import Precision
from sfmobile.runtime.mil.binding import Bound, Call, bind, constant_tensor
from sfmobile.runtime.mil.control import ROUNDS, Block, captured, control_operands, run_condition, run_loop, taken
from sfmobile.runtime.mil.fusion import FUSIONS, ROUNDED_FUSIONS
from sfmobile.runtime.mil.ops import TORCH_TYPES
from sfmobile.runtime.mil.ops.inplace import INPLACE
from sfmobile.runtime.mil.packing import packed_convolution, packed_linear
from sfmobile.runtime.mil.values import HELD, Budget, LimitError, Value

Slots: TypeAlias = "list[Value | None]"

# What torch and the op functions raise on operands that don't go together.
_FAILURES = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError)
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
    """A program ready to run. Slot 0 is an absent optional operand. budget: of the loops in one run."""

    precision: Precision
    initial: Slots
    inputs: dict[str, int]
    states: dict[str, int]
    outputs: dict[str, int]
    steps: list[Step]
    channels_last: bool
    budget: Budget


@dataclass(frozen=True)
class Manner:
    """How a plan is made.

    fold: compute constant subgraphs now. reuse: let an elementwise op overwrite an operand that nobody else reads.
    fuse: fewer, larger calls; weights in oneDNN's layout, images with channels last. lean: leave large weights in the
    mapped file and decode them for each use.
    """

    fold: bool = True
    reuse: bool = True
    fuse: bool = True
    lean: bool = False


def rounded(value: Tensor) -> Tensor:
    """float32 rounded to float16 and held wide again; beyond 65,504 it overflows to infinity, as in hardware."""
    return value.to(torch.float16).to(torch.float32)


def _round_fresh(function: Call, *arguments: Tensor | None) -> Tensor:
    """Call `function` and round its one float16 result, which shares memory with nothing, where it lies."""
    result = function(*arguments)
    assert isinstance(result, Tensor)
    return result.copy_(result.to(torch.float16))


def _round_outputs(function: Call, fp16: tuple[bool, ...], *arguments: Tensor | None) -> Value | Sequence[Value]:
    """Call `function` and round those of its outputs that are declared float16."""
    result = function(*arguments)
    if isinstance(result, Tensor):
        return rounded(result)
    assert isinstance(result, Sequence)
    return [
        rounded(value) if half and isinstance(value, Tensor) else value
        for value, half in zip(result, fp16, strict=True)
    ]


def _converted(function: Call, kind: torch.dtype, *arguments: Tensor | None) -> Tensor:
    """Call `function` and give its one result as `kind`."""
    result = function(*arguments)
    assert isinstance(result, Tensor)
    return result.to(kind)


def _swapped(function: Call, first: Tensor, second: Tensor) -> Value | Sequence[Value]:
    return function(second, first)


class _Builder:
    """Turns operations into steps, one by one."""

    def __init__(self, program: Program, precision: Precision, manner: Manner, budget: Budget) -> None:
        self.budget = budget
        self.program = program
        self.graph = Graph(program)
        self.precision = precision
        self.manner = manner
        self.slots: dict[str, int] = {}
        self.initial: Slots = [None]
        self.folded: dict[str, Tensor] = {}
        self.steps: list[Step] = []
        # Values that share memory with nothing else.
        self.fresh: set[str] = set()

    def new_slot(self, name: str | None, value: Tensor | None = None) -> int:
        self.initial.append(value)
        if name is not None:
            self.slots[name] = len(self.initial) - 1
        return len(self.initial) - 1

    def operand(self, item: Operand | None, operation: Operation) -> int:
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
        if self.manner.lean and constant.type.elements > _LEAN_ELEMENTS:
            slot = self.new_slot(None)
            self.steps.append(Step(partial(constant_tensor, constant), (), (slot,), (), operation, False))
            return slot
        return self.new_slot(item, constant_tensor(constant))

    def is_constant(self, item: Operand | None) -> bool:
        return not isinstance(item, str) or item in self.folded or item in self.program.constants

    def value(self, item: Operand | None) -> Tensor | None:
        """A constant operand's value."""
        if isinstance(item, str) and item in self.folded:
            return self.folded[item]
        constant = self.program.constant(item)
        return None if constant is None else constant_tensor(constant)

    def compute(self, bound: Bound, call: Call) -> Value | Sequence[Value]:
        """The result of an operation whose operands are all constant."""
        return call(*[self.value(item) for item in bound.operands])

    def add(self, operation: Operation) -> None:
        if operation.blocks:
            self.add_step(operation, self.control(operation), control_operands(self.program, operation))
            return
        bound = bind(self.program, operation)
        if self.manner.fold and not bound.op.varies and all(self.is_constant(item) for item in bound.operands):
            values = outputs_of(self.program, operation, self.compute(bound, self.rounding(bound, bound.call)))
            # A list or a label is no constant that others could be computed with.
            if all(isinstance(value, Tensor) for value in values):
                named = zip(operation.makes(), values, strict=True)
                self.folded.update({name: value for name, value in named if isinstance(value, Tensor)})
                return
        call, operands = self.packed(bound) or (self.overwriting(bound) or bound.call, bound.operands)
        self.add_step(operation, self.converting(bound, self.rounding(bound, call)), operands)
        if bound.op.fresh:
            self.fresh.update(name for name, _ in operation.outputs)

    def add_step(self, operation: Operation, call: Call, operands: Sequence[Operand | None]) -> None:
        arguments = tuple(self.operand(item, operation) for item in operands)
        outputs = tuple(self.new_slot(name) for name, _ in operation.outputs)
        self.steps.append(Step(call, arguments, outputs, (), operation, True))

    def control(self, operation: Operation) -> Call:
        """A conditional or a loop, with its blocks planned."""
        operands = control_operands(self.program, operation)
        names = captured(self.program, operation)
        blocks = [self.block(block, taken(operation, block)) for block in operation.blocks]
        if operation.kind == "cond":
            return partial(run_condition, blocks, names)
        return partial(run_loop, blocks, names, len(operands) - len(names), self.budget)

    def block(self, program: Program, outside: Sequence[str]) -> Block:
        """A block as a call; `outside` names its last inputs."""
        own = len(program.inputs) - len(outside)
        plan = make_plan(program, self.precision, self.manner, self.budget)

        def call(values: Sequence[Value], captured: dict[str, Value]) -> list[Value]:
            slots = plan.initial.copy()
            given = [*values[:own], *(captured[name] for name in outside)]
            for slot, value in zip(plan.inputs.values(), given, strict=True):
                slots[slot] = value
            run_steps(plan, program, slots)
            results = [slots[plan.outputs[name]] for name in program.outputs]
            return [result for result in results if result is not None]

        return call

    def rounding(self, bound: Bound, call: Call) -> Call:
        """`call` with the rounding that the evaluation asks for."""
        fp16 = tuple(type_.data_type == "fp16" for _, type_ in bound.operation.outputs)
        if self.precision != "fp16" or bound.op.exact or not any(fp16):
            return call
        return partial(_round_fresh, call) if bound.op.fresh else partial(_round_outputs, call, fp16)

    def converting(self, bound: Bound, call: Call) -> Call:
        """A product of floats and whole numbers in its declared type, which is that of one of them."""
        if bound.op.kind not in ("linear", "matmul"):
            return call
        mixed = {self.graph.type_of(item).is_float for item in bound.operands if item is not None}
        ((_, declared),) = bound.operation.outputs
        return partial(_converted, call, TORCH_TYPES[declared.data_type]) if len(mixed) > 1 else call

    def packed(self, bound: Bound) -> tuple[Call, list[Operand | None]] | None:
        """A convolution or linear layer over weights in oneDNN's layout: the call, and its operand, the input alone."""
        if not self.manner.fuse or self.manner.lean or bound.op.kind not in ("conv", "linear"):
            return None
        x, *weights = bound.operands
        shape = self.graph.shape(x)
        if shape is None or not all(self.is_constant(item) for item in weights):
            return None
        if x is None or not self.graph.type_of(x).is_float:
            return None
        weight, bias = (*(self.value(item) for item in weights), None)[:2]
        if weight is None or not weight.is_floating_point():
            return None
        attributes: dict[str, Any] = bound.attributes
        packed = (
            packed_convolution(weight, bias, shape, **attributes)
            if bound.op.kind == "conv"
            else packed_linear(weight, bias, prod(shape[:-1]))
        )
        return None if packed is None else (packed, [x])

    def overwriting(self, bound: Bound) -> Call | None:
        """The op computing in place of an operand that nobody else will read and that is as large as the result."""
        function = INPLACE.get(bound.op.kind)
        if not self.manner.reuse or function is None or any(item is None for item in bound.operands):
            return None
        commutes = bound.op.kind in ("add", "mul")
        (_, result) = bound.operation.outputs[0]
        for place, item in enumerate(bound.operands[: 2 if commutes else 1]):
            if (
                isinstance(item, str)
                and item in self.fresh
                and self.graph.uses[item] == 1
                and self.graph.types[item] == result
            ):
                call = partial(function, **bound.attributes) if bound.attributes else function
                return partial(_swapped, call) if place == 1 else call
        return None

    def finish(self, outputs: Mapping[str, int]) -> list[Step]:
        """Steps with what each one empties: values that end there, and weights that were decoded for it alone."""
        kept = set(outputs.values()) | {slot for slot, value in enumerate(self.initial) if value is not None}
        decoded = {slot for step in self.steps if not step.computes for slot in step.outputs}
        ending = {
            operation.position: names
            for operation, names in zip(self.program.operations, self.graph.ending, strict=True)
        }
        finished = []
        for step in self.steps:
            spent: set[int] = set()
            if step.computes:
                spent.update(self.slots[name] for name in ending[step.operation.position] if name in self.slots)
                spent.update(decoded.intersection(step.arguments))
            finished.append(step._replace(spent=tuple(sorted(spent - kept))))
        return finished


def make_plan(program: Program, precision: Precision, manner: Manner, budget: Budget | None = None) -> Plan:
    """Plan `program`; `budget` is that of the program around, if it is a block.

    Raises `UnavailableError` naming package, operation and position for an op or attribute the table doesn't know,
    `ArtifactError` for weights that can't be read, and for an operation that declares other outputs than it has.
    """
    if manner.fuse:
        program = rewrite(program, FUSIONS if precision == "fp32" else ROUNDED_FUSIONS)
    budget = budget or Budget(ROUNDS)
    builder = _Builder(program, precision, manner, budget)
    states = {name: builder.new_slot(name) for name in program.states}
    inputs = {name: builder.new_slot(name) for name in program.inputs}
    with torch.inference_mode():
        for operation in program.operations:
            with computing(program, operation):
                builder.add(operation)
        # What decodes a large constant output must be some operation's business, if only of none.
        last = program.operations[-1] if program.operations else Operation(0, "", program.function, {}, ())
        outputs = {name: builder.operand(name, last) for name in program.outputs}
    steps = builder.finish(outputs)
    return Plan(precision, builder.initial, inputs, states, outputs, steps, manner.fuse, budget)


@contextmanager
def computing(program: Program, operation: Operation) -> Iterator[None]:
    """Turn what `operation` fails with into a sentence that names it."""
    try:
        yield
    except _FAILURES as error:
        raise _explained(program, operation, error) from error


def _explained(
    program: Program, operation: Operation, error: Exception, mend: str = "export it again"
) -> SfmobileError:
    """torch lacks some operations on some types; everything else lies in the program."""
    if isinstance(error, NotImplementedError):
        return program.error(operation, "is of types")
    if isinstance(error, LimitError):
        return program.error(operation, str(error))
    return program.broken(operation, error, mend)


def outputs_of(program: Program, operation: Operation, result: Value | Sequence[Value]) -> list[Value]:
    """What a call gave, as many values as the operation declares. Raises `ArtifactError` if it declares others."""
    values: list[Value] = [result] if isinstance(result, HELD) else list(result)
    if len(values) != len(operation.outputs):
        raise ArtifactError(
            f"{program.package.name}: {operation} declares {len(operation.outputs)} outputs, but gives {len(values)}; "
            "export it again."
        )
    return values


def run_steps(
    plan: Plan, program: Program, slots: Slots, observe: Callable[[Operation, list[Value]], None] | None = None
) -> None:
    """Run all steps over `slots`; `observe` is shown each operation's outputs. Raises as `make_plan` does."""
    step = None
    try:
        for step in plan.steps:
            result = step.function(*[slots[index] for index in step.arguments])
            if isinstance(result, HELD) and len(step.outputs) == 1:
                slots[step.outputs[0]] = result
            else:
                for index, value in zip(step.outputs, outputs_of(program, step.operation, result), strict=True):
                    slots[index] = value
            if observe is not None and step.computes:
                observe(step.operation, outputs_of(program, step.operation, result))
            for index in step.spent:
                slots[index] = None
    except _FAILURES as error:
        assert step is not None
        # A value that was given may be at fault: an index beyond the end, say.
        raise _explained(program, step.operation, error, "look at the inputs, or export it again") from error
