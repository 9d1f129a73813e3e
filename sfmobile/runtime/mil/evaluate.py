"""Runs a program: arrays by name in, arrays by name out, each op's result to a hook if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.mlpackage.program import Operation, Program
from sfmobile.mlpackage.types import ListType, TensorType
from sfmobile.runtime.choices import Precision
from sfmobile.runtime.mil.ops import TORCH_TYPES
from sfmobile.runtime.mil.plan import Manner, Plan, Slots, make_plan, rounded, run_steps
from sfmobile.runtime.mil.values import Label, Scores, State, Value


@dataclass(frozen=True)
class OpResult:
    """One output of one executed operation, as a hook sees it. `value` holds floats as float32."""

    position: int
    kind: str
    operation: str
    output: str
    type: TensorType
    value: np.ndarray


# All states of a program together; a phone has less.
MOST_STATE_BYTES = 16 << 30

Hook = Callable[[OpResult], None]


class Evaluator:
    """A program with its weights decoded, ready to be called any number of times.

    precision  "fp32" or "fp16" evaluation, see the package's docstring.
    fuse       faster calls whose float32 sums may run in another order: weights in oneDNN's layout, images with
               channels last and, in fp32 evaluation, known groups of ops as one. Without it every op is its own call.
    lean       keep large weights in the mapped file and decode them for each use: slower, and small in memory.
    """

    def __init__(
        self, program: Program, precision: Precision = "fp32", *, fuse: bool = True, lean: bool = False
    ) -> None:
        _check_border(program)
        self.program = program
        self.precision = precision
        self.inputs: dict[str, TensorType] = dict(program.inputs)
        self.outputs: dict[str, TensorType] = program.output_types()
        self._plan = make_plan(program, precision, Manner(fuse=fuse, lean=lean))
        self._trace_plan: Plan | None = None

    def __call__(self, inputs: Mapping[str, np.ndarray | Tensor]) -> dict[str, np.ndarray]:
        """Run once. Raises `UsageError` for an input that is missing, unknown or of the wrong shape.

        Any dtype is converted to the declared one; float outputs are float32, the others as declared.
        """
        return self._arrays(self.values(inputs))

    def values(
        self, inputs: Mapping[str, np.ndarray | Tensor], states: Mapping[str, State] | None = None
    ) -> dict[str, np.ndarray | str | int | dict[str | int, float]]:
        """Run once; a classifier gives its label and its numbers by class as well. Raises as a call does.

        states: as `new_states` makes them, for a program that has any; they are changed. New ones by default.
        """
        with torch.inference_mode():
            slots = self._fill(self._plan, inputs, states)
            run_steps(self._plan, self.program, slots)
            return {name: self._result(name, slots[slot]) for name, slot in self._plan.outputs.items()}

    def new_states(self) -> dict[str, State]:
        """What the program keeps between calls, full of zeros. Raises `UnavailableError` without memory for it."""
        kept = self.program.states
        try:
            return {
                name: State(torch.zeros(type_.sizes, dtype=TORCH_TYPES[type_.data_type]))
                for name, type_ in kept.items()
            }
        except RuntimeError as error:
            raise UnavailableError(
                f"{self.program.package.name} keeps {', '.join(f'{name!r} of type {kept[name]}' for name in kept)} "
                "between calls, which this machine has no memory for."
            ) from error

    def trace(self, inputs: Mapping[str, np.ndarray | Tensor], hook: Hook) -> dict[str, np.ndarray]:
        """Run once op by op as the program is written, nothing fused or folded, and show `hook` every result.

        Each result's shape is checked against its declaration. Weights are decoded as they are used, so tracing
        needs no second copy of them.
        """
        if self._trace_plan is None:
            self._trace_plan = make_plan(
                self.program, self.precision, Manner(fold=False, reuse=False, fuse=False, lean=True)
            )

        def observe(operation: Operation, values: list[Value]) -> None:
            for (name, type_), value in zip(operation.outputs, values, strict=True):
                if not isinstance(value, Tensor):
                    continue
                if not _fits(tuple(value.shape), type_):
                    raise ArtifactError(
                        f"{self.program.package.name}: {operation} declares '{name}' as {type_}, but its inputs give "
                        f"shape {tuple(value.shape)}; export it again."
                    )
                hook(OpResult(operation.position, operation.kind, operation.name, name, type_, value.numpy()))

        with torch.inference_mode():
            slots = self._fill(self._trace_plan, inputs)
            run_steps(self._trace_plan, self.program, slots, observe)
            return self._arrays(
                {name: self._result(name, slots[slot]) for name, slot in self._trace_plan.outputs.items()}
            )

    def _arrays(self, values: Mapping[str, np.ndarray | str | int | dict[str | int, float]]) -> dict[str, np.ndarray]:
        """What a classifier says, without its words."""
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def _result(self, name: str, value: Value | None) -> np.ndarray | str | int | dict[str | int, float]:
        if isinstance(value, Label):
            return value.value
        if isinstance(value, Scores):
            return value.by_class
        if not isinstance(value, Tensor):
            found = "a list" if isinstance(self.outputs[name], ListType) else "no tensor"
            raise UnavailableError(
                f"{self.program.package.name}: output '{name}' is {found}, which the mil runtime doesn't give."
            )
        return value.contiguous().numpy()

    def _fill(
        self,
        plan: Plan,
        inputs: Mapping[str, np.ndarray | Tensor],
        states: Mapping[str, State] | None = None,
    ) -> Slots:
        """Slots at the start of a run: constants, states, and the converted inputs."""
        unknown = set(inputs) - set(self.inputs)
        if unknown:
            raise UsageError(
                f"{self.program.package.name} has no input '{sorted(unknown)[0]}'; it takes {', '.join(self.inputs)}."
            )
        slots = plan.initial.copy()
        plan.budget.reset()
        states = states or self.new_states()
        for name, slot in plan.states.items():
            slots[slot] = states[name]
        for name, type_ in self.inputs.items():
            if name not in inputs:
                raise UsageError(f"{self.program.package.name} lacks its input '{name}' of type {type_}.")
            value = self._input(name, type_, inputs[name])
            if plan.channels_last and value.dim() == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            slots[plan.inputs[name]] = value
        return slots

    def _input(self, name: str, type_: TensorType, value: np.ndarray | Tensor) -> Tensor:
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, requirements=("C", "W")))
        if not _fits(tuple(tensor.shape), type_):
            raise UsageError(
                f"Input '{name}' of {self.program.package.name} has shape {tuple(tensor.shape)}; expected {type_}."
            )
        tensor = tensor.to(TORCH_TYPES[type_.data_type])
        return rounded(tensor) if self.precision == "fp16" and type_.data_type == "fp16" else tensor


def _check_border(program: Program) -> None:
    """Raise for inputs and states that tensors can't be made of: a type that torch lacks, states beyond any memory."""
    for name, type_ in (*program.inputs.items(), *program.states.items()):
        if type_.data_type not in TORCH_TYPES:
            raise UnavailableError(
                f"{program.package.name}: '{name}' is of type {type_}, which the mil runtime doesn't execute."
            )
    wanted = sum(type_.bytes for type_ in program.states.values())
    if wanted > MOST_STATE_BYTES:
        raise ArtifactError(
            f"{program.package.name} declares states of {wanted} bytes; expected at most {MOST_STATE_BYTES}."
        )


def _fits(shape: tuple[int, ...], type_: TensorType) -> bool:
    """Whether `shape` is what `type_` declares, unknown sizes aside."""
    return len(shape) == len(type_.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, type_.shape, strict=True)
    )
