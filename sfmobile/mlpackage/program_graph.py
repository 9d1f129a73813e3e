"""A program as a graph: who computes a value, who reads it, of what type it is, what an attribute says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.mlpackage.program import Constant

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Operation, Program
    from sfmobile.mlpackage.value import TensorType

FLOAT_TYPES = frozenset({"fp16", "fp32", "fp64", "bf16"})
_BITS = {
    "bool": 8, "fp16": 16, "bf16": 16, "fp32": 32, "fp64": 64, "int4": 4, "int8": 8, "int16": 16, "int32": 32,
    "int64": 64, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "uint8": 8, "uint16": 16, "uint32": 32,
    "uint64": 64, "string": 0,
}  # fmt: skip
# What decides how an operation computes rather than what it computes with.
_ATTRIBUTES = frozenset(
    {"perm", "shape", "axis", "axes", "strides", "dilations", "pad", "pad_type", "groups", "equation", "dtype"}
)


def elements(type_: TensorType) -> int:
    """How many values; an unknown dimension counts as one."""
    return math.prod(1 if size is None else size for size in type_.shape)


def byte_count(type_: TensorType) -> int:
    """Bytes of a value stored densely."""
    return -(-elements(type_) * _BITS[type_.data_type] // 8)


class ProgramGraph:
    """Look-ups over a `Program`. Nothing is executed; attributes are read when asked for."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.types: dict[str, TensorType] = dict(program.inputs)
        self.types.update({name: constant.type for name, constant in program.constants.items()})
        self.producers: dict[str, Operation] = {}
        self.consumers: dict[str, list[Operation]] = {}
        for operation in program.operations:
            for name, type_ in operation.outputs:
                self.producers[name] = operation
                self.types[name] = type_
            for name in dict.fromkeys(self.names_read(operation)):
                self.consumers.setdefault(name, []).append(operation)

    @staticmethod
    def names_read(operation: Operation) -> Iterator[str]:
        """Names of all values an operation reads, constants included, as often as it reads them."""
        for items in operation.inputs.values():
            for item in items:
                if isinstance(item, str):
                    yield item

    def activations(self, operation: Operation) -> list[str]:
        """Values that an operation reads and that aren't constant, each once."""
        constants = self.program.constants
        return [name for name in dict.fromkeys(self.names_read(operation)) if name not in constants]

    def multiplies_activations(self, operation: Operation) -> bool:
        """Whether an operation is a matrix product none of whose factors is a constant (both may be the same)."""
        if operation.kind == "scaled_dot_product_attention":
            return True
        if operation.kind not in ("matmul", "einsum"):
            return False
        constants = self.program.constants
        factors = [item for name in ("x", "y", "values") for item in operation.inputs.get(name, ())]
        return all(isinstance(item, str) and item not in constants for item in factors)

    def weights(self, operation: Operation) -> dict[str, Constant]:
        """Float constants of more than one element that an operation computes with, by name."""
        constants = self.program.constants
        found: dict[str, Constant] = {}
        for argument, items in operation.inputs.items():
            if argument in _ATTRIBUTES:
                continue
            for item in items:
                constant = constants.get(item) if isinstance(item, str) else item
                if constant is not None and constant.type.data_type in FLOAT_TYPES and elements(constant.type) > 1:
                    found[item if isinstance(item, str) else f"{operation.name}.{argument}"] = constant
        return found

    def type_of(self, item: str | Constant) -> TensorType:
        """Type of an operand."""
        return self.types[item] if isinstance(item, str) else item.type

    def operand(self, operation: Operation, argument: str) -> str | Constant | None:
        """The only operand under `argument`, or None."""
        items = operation.inputs.get(argument, ())
        return items[0] if len(items) == 1 else None

    def operand_type(self, operation: Operation, argument: str) -> TensorType | None:
        """Type of the operand under `argument`, or None where there is none."""
        item = self.operand(operation, argument)
        return None if item is None else self.type_of(item)

    def constant(self, operation: Operation, argument: str) -> Constant | None:
        """The constant under `argument`, or None if it is absent or computed."""
        item = self.operand(operation, argument)
        return self.program.constants.get(item) if isinstance(item, str) else item

    def integers(self, operation: Operation, argument: str) -> tuple[int, ...] | None:
        """An attribute of integers (or booleans), None if it is absent or computed."""
        constant = self.constant(operation, argument)
        return None if constant is None else tuple(int(value) for value in np.asarray(constant.load()).reshape(-1))

    def numbers(self, operation: Operation, argument: str) -> tuple[float, ...] | None:
        """An attribute of numbers, None if it is absent or computed."""
        constant = self.constant(operation, argument)
        return None if constant is None else tuple(float(value) for value in np.asarray(constant.load()).reshape(-1))

    def text(self, operation: Operation, argument: str) -> str | None:
        """An attribute that is a string."""
        constant = self.constant(operation, argument)
        return None if constant is None else str(constant.load())

    def producer(self, operation: Operation, argument: str = "x") -> Operation | None:
        """What computes the operand under `argument`; None for inputs and constants."""
        item = self.operand(operation, argument)
        return self.producers.get(item) if isinstance(item, str) else None

    def readers(self, operation: Operation) -> list[Operation]:
        """Operations that read an output of `operation`, each once."""
        found = {reader.position: reader for name, _ in operation.outputs for reader in self.consumers.get(name, ())}
        return list(found.values())
