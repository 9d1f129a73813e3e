"""Types of MIL values: every data type with all that follows from it, and tensors of them.

A dimension that varies (of a flexible input, of a result whose size is known at run time only) is None in a shape, and
counts as 1 wherever a number is needed all the same: for elements, bytes, multiply-accumulates. That is never more than
any run really has, and it lets a cost be read as "per element of what varies". What a flexible input has by default
stands in the model's description, not in the program, so no value behind the input could be given its default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class DataType(NamedTuple):
    """One of MIL's data types.

    number: in MIL.proto. blob: MILBlob's code in a weight file; None for what can't be stored there. bits: of one
    value, packed. numpy: what its bytes are read as; None for types that are packed, widened or no numbers.
    """

    name: str
    number: int
    blob: int | None
    bits: int
    numpy: np.dtype[Any] | None


DATA_TYPES: dict[str, DataType] = {
    row.name: row
    for row in (
        DataType("bool", 1, None, 8, np.dtype(np.bool_)),
        DataType("string", 2, None, 0, None),
        DataType("fp16", 10, 1, 16, np.dtype("<f2")),
        DataType("fp32", 11, 2, 32, np.dtype("<f4")),
        DataType("fp64", 12, None, 64, np.dtype("<f8")),
        DataType("bf16", 13, 5, 16, None),
        DataType("int4", 25, 8, 4, None),
        DataType("int8", 21, 4, 8, np.dtype(np.int8)),
        DataType("int16", 22, 6, 16, np.dtype("<i2")),
        DataType("int32", 23, 14, 32, np.dtype("<i4")),
        DataType("int64", 24, None, 64, np.dtype("<i8")),
        DataType("uint1", 37, 9, 1, None),
        DataType("uint2", 36, 10, 2, None),
        DataType("uint3", 39, 12, 3, None),
        DataType("uint4", 35, 11, 4, None),
        DataType("uint6", 38, 13, 6, None),
        DataType("uint8", 31, 3, 8, np.dtype(np.uint8)),
        DataType("uint16", 32, 7, 16, np.dtype("<u2")),
        DataType("uint32", 33, 15, 32, np.dtype("<u4")),
        DataType("uint64", 34, None, 64, np.dtype("<u8")),
    )
}
_BY_NUMBER = {row.number: row.name for row in DATA_TYPES.values()}

FLOAT_TYPES = frozenset({"fp16", "bf16", "fp32", "fp64"})
# Floats that the Neural Engine doesn't compute with.
WIDE_FLOAT_TYPES = frozenset({"fp32", "fp64"})
INTEGER_TYPES = frozenset(name for name in DATA_TYPES if name.startswith(("int", "uint")))


@dataclass(frozen=True)
class TensorType:
    """Type of a value: MIL data type name and shape; a dimension unknown until run time is None."""

    data_type: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.data_type}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape with 1 for each dimension that varies."""
        return tuple([1 if size is None else size for size in self.shape])

    @property
    def elements(self) -> int:
        """How many values."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes of a value stored densely, packed where its type is narrower than a byte."""
        return -(-self.elements * DATA_TYPES[self.data_type].bits // 8)

    @property
    def is_float(self) -> bool:
        """Whether its values are floating-point numbers."""
        return self.data_type in FLOAT_TYPES


@dataclass(frozen=True)
class ListType(TensorType):
    """A list of tensors: data type and shape are those of one element. length: None where it varies."""

    length: int | None = None

    def __str__(self) -> str:
        return f"list of {super().__str__()}"


@dataclass(frozen=True)
class StateType(TensorType):
    """A tensor that a model keeps from one call to the next."""

    def __str__(self) -> str:
        return f"state {super().__str__()}"


@dataclass(frozen=True)
class DictionaryType(TensorType):
    """A classifier's numbers by class; the data type is that of the numbers."""

    def __str__(self) -> str:
        return f"{self.data_type} by class"


def value_type(proto: Any) -> TensorType:
    """The type of any value a program may hold. Raises `ValueError` for what is neither tensor, list nor state."""
    kind = proto.WhichOneof("type")
    if kind == "listType":
        element = tensor_type(proto.listType.type)
        length = proto.listType.length
        known = int(length.constant.size) if length.WhichOneof("dimension") == "constant" else None
        return ListType(element.data_type, element.shape, known)
    if kind == "stateType":
        wrapped = tensor_type(proto.stateType.wrappedType)
        return StateType(wrapped.data_type, wrapped.shape)
    if kind == "dictionaryType":
        return DictionaryType(tensor_type(proto.dictionaryType.valueType).data_type, (None,))
    return tensor_type(proto)


def tensor_type(proto: Any) -> TensorType:
    """The `TensorType` of a MIL `ValueType` message. Raises `ValueError` for other kinds."""
    kind = proto.WhichOneof("type")
    if kind != "tensorType":
        raise ValueError(f"a value of kind '{kind}'")
    tensor = proto.tensorType
    name = _BY_NUMBER.get(tensor.dataType)
    if name is None:
        raise ValueError(f"data type number {tensor.dataType}")
    shape = tuple(
        int(size.constant.size) if size.WhichOneof("dimension") == "constant" else None for size in tensor.dimensions
    )
    return TensorType(name, shape)
