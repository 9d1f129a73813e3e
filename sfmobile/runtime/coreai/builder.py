"""The Core AI graph under construction: values by name, constants, and the operands of the operation being bridged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from sfmobile.mlpackage.operands import NamedOperands
from sfmobile.mlpackage.program import Constant, Operation, Program
from sfmobile.mlpackage.types import FLOAT_TYPES, TensorType
from sfmobile.runtime.coreai import library, palette

if TYPE_CHECKING:
    from coreai.authoring import Value

NumberType = type[np.float16] | type[np.float32] | type[np.int32] | type[np.bool_]


class GraphBuilder:
    """Values of one graph by the program's names.

    precision: "fp32" makes every float a float32, "fp16" keeps the types that the program declares.
    widened: whether matrix products and gelu are computed in float32 and rounded once, as `mil` does.
    shipped: whether the program is one to ship, its constants in the type that the result has.
    """

    def __init__(
        self, program: Program, precision: Literal["fp32", "fp16"], *, widened: bool = False, shipped: bool = False
    ) -> None:
        self.program = program
        self.precision = precision
        self.shipped = shipped
        self.widened = widened and precision == "fp16"
        self.values: dict[str, Value] = {}
        self.types: dict[str, TensorType] = dict(program.inputs)

    def number(self, type_: TensorType) -> NumberType:
        """The numpy type that a value of the program has in the graph. Raises `ValueError` for one it can't have."""
        if type_.data_type in FLOAT_TYPES:
            return np.float16 if self.precision == "fp16" and type_.data_type == "fp16" else np.float32
        found: dict[str, NumberType] = {"int32": np.int32, "bool": np.bool_}
        if type_.data_type not in found:
            raise ValueError(f"has an operand of type {type_}")
        return found[type_.data_type]

    def type_of(self, item: str | Constant) -> TensorType:
        """The program's type of an operand."""
        if isinstance(item, Constant):
            return item.type
        return self.program.constants[item].type if item in self.program.constants else self.types[item]

    def shape_of(self, item: str | Constant) -> tuple[int, ...]:
        """Static shape of an operand. Raises `ValueError` if part of it is unknown."""
        type_ = self.type_of(item)
        shape = tuple(size for size in type_.shape if size is not None)
        if len(shape) != len(type_.shape):
            raise ValueError(f"has an operand of type {type_}")
        return shape

    def operand(self, item: str | Constant) -> Value:
        """The graph's value of an operand; a constant is made when it is first asked for."""
        if isinstance(item, Constant):
            return self._constant(item)
        if item not in self.values:
            self.values[item] = self._constant(self.program.constants[item])
        return self.values[item]

    def _constant(self, constant: Constant) -> Value:
        number = self.number(constant.type)
        if constant.encoded is not None and number in (np.float16, np.float32):
            native = palette.native(constant, number)
            if native is not None:
                return native
        value = constant.load()
        if isinstance(value, str):
            raise ValueError(f"has the string '{value}' for a tensor")
        return library.constant(np.asarray(value).astype(number))


class Operands(NamedOperands["Value"]):
    """Operands and attributes of one operation, as values of the graph."""

    def __init__(self, builder: GraphBuilder, operation: Operation) -> None:
        super().__init__(builder, operation)
        self.builder = builder

    def shape(self, name: str, place: int = 0) -> tuple[int, ...]:
        """Shape of the operand `name`, the one at `place` of a variadic one."""
        return self.builder.shape_of(self.operation.inputs[name][place])

    @property
    def number(self) -> NumberType:
        """The numpy type of the first result."""
        return self.builder.number(self.operation.outputs[0][1])

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Static shape of the first result. Raises `ValueError` if part of it is unknown."""
        return self.builder.shape_of(self.operation.outputs[0][0])

    @property
    def out_shapes(self) -> list[tuple[int, ...]]:
        """Static shapes of all results."""
        return [self.builder.shape_of(name) for name, _ in self.operation.outputs]
