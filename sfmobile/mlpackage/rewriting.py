"""Rewriting of programs: groups of operations replaced by one, and what nobody reads any more dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import Constant, Operation, Program
from sfmobile.mlpackage.types import TensorType

Rewrite = Callable[[Graph, Operation], "Operation | None"]


def literal(value: np.ndarray | float | int | bool) -> Constant:
    """A Python or numpy value as an operand."""
    array = np.asarray(value)
    names = {"f": "fp32", "i": "int32", "b": "bool"}
    return Constant(TensorType(names[array.dtype.kind], array.shape), lambda: array)


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
    """The operations whose results reach an output, and those that change a state."""
    needed = set(outputs)
    living = []
    for operation in reversed(operations):
        if operation.has_effect or any(name in needed for name, _ in operation.outputs):
            needed.update(operation.reads())
            living.append(operation)
    return living[::-1]
