"""A program's operations as a graph to be rewritten: who makes a value, who reads it, what is constant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from sfmobile.mlpackage.program import Constant, Operation, Program
from sfmobile.mlpackage.value import TensorType


def literal(value: np.ndarray | float | int | bool) -> Constant:
    """A Python or numpy value as an operand."""
    array = np.asarray(value)
    names = {"f": "fp32", "i": "int32", "b": "bool"}
    return Constant(TensorType(names[array.dtype.kind], array.shape), lambda: array)


class Graph:
    """The operations of a program and the relations between them. Immutable: a rewrite makes a new one."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @cached_property
    def producers(self) -> dict[str, Operation]:
        """The operation that makes each value."""
        return {name: operation for operation in self.program.operations for name, _ in operation.outputs}

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each value is read, being an output of the program included."""
        counter = Counter(self.program.outputs)
        for operation in self.program.operations:
            counter.update(values_read(operation))
        return counter

    @cached_property
    def readers(self) -> dict[str, list[Operation]]:
        """The operations that read each value."""
        readers: dict[str, list[Operation]] = {}
        for operation in self.program.operations:
            for name in values_read(operation):
                readers.setdefault(name, []).append(operation)
        return readers

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """Type of every value."""
        types = dict(self.program.inputs)
        types.update({name: constant.type for name, constant in self.program.constants.items()})
        types.update({name: type_ for operation in self.program.operations for name, type_ in operation.outputs})
        return types

    def made_by(self, item: str | Constant | None, kind: str, *, alone: bool = True) -> Operation | None:
        """The operation of `kind` that makes `item`; with `alone`, only if nobody else reads that value."""
        if not isinstance(item, str):
            return None
        operation = self.producers.get(item)
        if operation is None or operation.kind != kind or (alone and self.uses[item] != 1):
            return None
        return operation

    def operand(self, operation: Operation, argument: str) -> str | Constant | None:
        """What `operation` reads for a single-valued argument; None if absent."""
        items = operation.inputs.get(argument, ())
        return items[0] if len(items) == 1 else None

    def constant(self, item: str | Constant | None) -> np.ndarray | str | None:
        """Value of a constant operand; None for anything else."""
        constant = self.program.constants.get(item) if isinstance(item, str) else item
        return None if constant is None else constant.load()

    def number(self, item: str | Constant | None) -> float | None:
        """Value of a constant with a single element; None for anything else."""
        constant = self.program.constants.get(item) if isinstance(item, str) else item
        if constant is None or any(size != 1 for size in constant.type.shape):
            return None
        value = constant.load()
        return None if isinstance(value, str) else float(value.reshape(()))

    def attribute(self, operation: Operation, argument: str, default: object = None) -> object:
        """A constant attribute as a Python value (lists for vectors); `default` if absent; None if not constant."""
        if argument not in operation.inputs:
            return default
        value = self.constant(self.operand(operation, argument))
        return value.tolist() if isinstance(value, np.ndarray) else value

    def one_type(self, operations: Iterable[Operation]) -> bool:
        """Whether all results of `operations` have the same data type."""
        return len({type_.data_type for operation in operations for _, type_ in operation.outputs}) == 1

    def shape(self, item: str | Constant | None) -> tuple[int, ...] | None:
        """Shape of a value; None if part of it is unknown."""
        type_ = self.types.get(item) if isinstance(item, str) else None if item is None else item.type
        if type_ is None or None in type_.shape:
            return None
        return tuple(size for size in type_.shape if size is not None)


def values_read(operation: Operation) -> Iterator[str]:
    """Names of the values an operation reads, once per mention."""
    return (item for items in operation.inputs.values() for item in items if isinstance(item, str))


Rewrite = Callable[[Graph, Operation], "Operation | None"]


def rewrite(program: Program, rewrites: Iterable[Rewrite]) -> Program:
    """Apply each rewrite to every operation, last of its group first found, and drop what nobody reads any more.

    A rewrite is shown an operation and returns another with the same outputs that reads further back, or None.
    """
    for one in rewrites:
        graph = Graph(program)
        operations = [one(graph, operation) or operation for operation in program.operations]
        program = replace(program, operations=_living(operations, program.outputs))
    return program


def _living(operations: list[Operation], outputs: tuple[str, ...]) -> list[Operation]:
    """The operations whose results reach an output."""
    needed = set(outputs)
    living = []
    for operation in reversed(operations):
        if any(name in needed for name, _ in operation.outputs):
            needed.update(values_read(operation))
            living.append(operation)
    return living[::-1]
