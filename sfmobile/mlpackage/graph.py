"""A program as a graph: who makes a value, who reads it, how long it lives, what is constant.

Nothing is executed; constants are read when their value is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sfmobile.mlpackage.program import Constant, Operand, Operation, Program
from sfmobile.mlpackage.types import TensorType

# What decides how an operation computes rather than what it computes with.
_ATTRIBUTES = frozenset(
    {"perm", "shape", "axis", "axes", "strides", "dilations", "pad", "pad_type", "groups", "equation", "dtype"}
)


class Life(NamedTuple):
    """How long a value is needed, in places of `Program.operations`.

    made: of the operation that computes it, -1 for an input. last: of the last operation that reads it, `made` if none
    does. kept: it is an output of the program as well.
    """

    made: int
    last: int
    kept: bool


class Graph:
    """The operations of a program and the relations between them. The program must not change meanwhile."""

    def __init__(self, program: Program) -> None:
        self.program = program

    # --- makers and readers ---

    @cached_property
    def makers(self) -> dict[str, Operation]:
        """The operation that computes each value."""
        return {name: operation for operation in self.program.operations for name, _ in operation.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Operation]]:
        """The operations that read each value, constants included, each once and in running order."""
        readers: dict[str, list[Operation]] = {}
        for operation in self.program.operations:
            for name in dict.fromkeys(operation.reads()):
                readers.setdefault(name, []).append(operation)
        return readers

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each value is read, being an output of the program included."""
        counter = Counter(self.program.outputs)
        for operation in self.program.operations:
            counter.update(operation.reads())
        return counter

    def made_by(self, item: Operand | None, kind: str, *, alone: bool = True) -> Operation | None:
        """The operation of `kind` that makes `item`; with `alone`, only if nobody else reads that value."""
        operation = self.makers.get(item) if isinstance(item, str) else None
        if operation is None or operation.kind != kind or (alone and self.uses[str(item)] != 1):
            return None
        return operation

    def maker_of(self, operation: Operation, argument: str = "x") -> Operation | None:
        """What computes the operand under `argument`; None for inputs and constants."""
        item = self.operand(operation, argument)
        return self.makers.get(item) if isinstance(item, str) else None

    def readers_of(self, operation: Operation) -> list[Operation]:
        """Operations that read an output of `operation`, each once."""
        found = {reader.position: reader for name in operation.makes() for reader in self.readers.get(name, ())}
        return list(found.values())

    # --- how long values live ---

    @cached_property
    def lives(self) -> dict[str, Life]:
        """How long each input and each computed value is needed."""
        made = dict.fromkeys(self.program.inputs, -1)
        last: dict[str, int] = {}
        for place, operation in enumerate(self.program.operations):
            last.update(dict.fromkeys(operation.reads(), place))
            made.update(dict.fromkeys(operation.makes(), place))
        kept = set(self.program.outputs)
        return {name: Life(place, last.get(name, place), name in kept) for name, place in made.items()}

    @cached_property
    def ending(self) -> list[list[str]]:
        """The values that nobody needs any more behind each operation. An input that nobody reads is in none."""
        ending: list[list[str]] = [[] for _ in self.program.operations]
        for name, life in self.lives.items():
            if not life.kept and life.last >= 0:
                ending[life.last].append(name)
        return ending

    # --- types and operands ---

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """Type of every value."""
        types: dict[str, TensorType] = {**self.program.inputs, **self.program.states}
        types.update({name: constant.type for name, constant in self.program.constants.items()})
        types.update({name: type_ for operation in self.program.operations for name, type_ in operation.outputs})
        return types

    def type_of(self, item: Operand) -> TensorType:
        """Type of an operand."""
        return self.types[item] if isinstance(item, str) else item.type

    def shape(self, item: Operand | None) -> tuple[int, ...] | None:
        """Shape of an operand; None without one, or if part of it is unknown."""
        type_ = self.types.get(item) if isinstance(item, str) else None if item is None else item.type
        return None if type_ is None or None in type_.shape else type_.sizes

    def operand(self, operation: Operation, argument: str) -> Operand | None:
        """The only operand under `argument`; None if there is none, or several."""
        items = operation.inputs.get(argument, ())
        return items[0] if len(items) == 1 else None

    def operand_type(self, operation: Operation, argument: str) -> TensorType | None:
        """Type of the operand under `argument`, or None where there is none."""
        item = self.operand(operation, argument)
        return None if item is None else self.type_of(item)

    def one_type(self, operations: Iterable[Operation]) -> bool:
        """Whether all results of `operations` have the same data type."""
        return len({type_.data_type for operation in operations for _, type_ in operation.outputs}) == 1

    def activations(self, operation: Operation) -> list[str]:
        """Values that an operation reads and that aren't constant, each once."""
        constants = self.program.constants
        return [name for name in dict.fromkeys(operation.reads()) if name not in constants]

    def multiplies_activations(self, operation: Operation) -> bool:
        """Whether an operation is a matrix product none of whose factors is a constant (both may be the same)."""
        if operation.kind == "scaled_dot_product_attention":
            return True
        if operation.kind not in ("matmul", "einsum"):
            return False
        factors = [item for name in ("x", "y", "values") for item in operation.inputs.get(name, ())]
        return all(self.program.constant(item) is None for item in factors)

    # --- constants ---

    def constant(self, operation: Operation, argument: str) -> Constant | None:
        """The constant under `argument`, or None if it is absent or computed."""
        return self.program.constant(self.operand(operation, argument))

    def value(self, item: Operand | None) -> np.ndarray | str | None:
        """Value of a constant operand; None for anything else."""
        constant = self.program.constant(item)
        return None if constant is None else constant.load()

    def number(self, item: Operand | None) -> float | None:
        """Value of a constant with a single element; None for anything else."""
        constant = self.program.constant(item)
        if constant is None or constant.type.elements != 1 or constant.type.data_type == "string":
            return None
        return float(np.asarray(constant.load()).reshape(()))

    def attribute(self, operation: Operation, argument: str, default: object = None) -> object:
        """A constant attribute as a Python value (lists for vectors); `default` if absent; None if not constant."""
        if argument not in operation.inputs:
            return default
        value = self.value(self.operand(operation, argument))
        return value.tolist() if isinstance(value, np.ndarray) else value

    def integers(self, operation: Operation, argument: str) -> tuple[int, ...] | None:
        """An attribute of integers (or booleans), None if it is absent or computed."""
        value = self.value(self.operand(operation, argument))
        return None if value is None else tuple(int(item) for item in np.asarray(value).reshape(-1))

    def weights(self, operation: Operation) -> dict[str, Constant]:
        """Float constants of more than one element that an operation computes with, by name."""
        found: dict[str, Constant] = {}
        for argument, items in operation.inputs.items():
            if argument in _ATTRIBUTES:
                continue
            for item in items:
                constant = self.program.constant(item)
                if constant is not None and constant.type.is_float and constant.type.elements > 1:
                    found[item if isinstance(item, str) else f"{operation.name}.{argument}"] = constant
        return found

    def constants_behind(self, operation: Operation) -> Iterator[tuple[str, Constant]]:
        """Named constants that an operation reads, each behind those that it is decoded from, once per mention."""
        return self._with_sources(operation.reads())

    def _with_sources(self, names: Iterable[str]) -> Iterator[tuple[str, Constant]]:
        for name in names:
            constant = self.program.constants.get(name)
            if constant is not None:
                yield from self._with_sources(constant.sources)
                yield name, constant
