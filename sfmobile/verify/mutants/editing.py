"""What changing a package's operations and weight files in place takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfmobile.mlpackage.package import COREML_FOLDER, DATA_FOLDER, Package
from sfmobile.mlpackage.types import tensor_type

Generator = np.random.Generator


@dataclass(frozen=True)
class Change:
    """A fault at one operation: in words, and as an edit of the copied package's operation and weight file."""

    detail: str
    edit: Callable[[Any, list[Any], Weights], None]


@dataclass(frozen=True)
class Maker:
    """How faults of a kind are made: the operations that they can be at, and the fault at one, if it has one."""

    kind: str
    places: Callable[[list[Any]], list[int]]
    change: Callable[[list[Any], int, Generator], Change | None]


class Weights:
    """The copied package's weight files, written in place."""

    def __init__(self, package: Path) -> None:
        self._package = Package(package)
        self._folder = package / DATA_FOLDER / COREML_FOLDER

    def read(self, value: Any) -> np.ndarray:
        """A float16 or byte array that a value holds, in the weight file or in the program."""
        blob = self._package.blob(value)
        if blob is not None:
            raw = np.array(blob.data)
            return raw.view(np.float16) if blob.data_type == "fp16" else raw
        raw = np.frombuffer(value.immediateValue.tensor.bytes.values, np.uint8).copy()
        return raw.view(np.float16)

    def write(self, value: Any, array: np.ndarray) -> None:
        """Put an array of the same size in its place."""
        content = array.tobytes()
        blob = self._package.blob(value)
        if blob is None:
            value.immediateValue.tensor.bytes.values = content
            return
        assert len(content) == blob.data.nbytes
        path = self._folder.joinpath(*value.blobFileValue.fileName.split("/")[1:])
        with path.open("r+b") as file:
            file.seek(value.blobFileValue.offset + 16)
            start = int.from_bytes(file.read(8), "little")
            file.seek(start)
            file.write(content)


def name_of(operation: Any) -> str:
    """Of an operation's first result."""
    return str(operation.outputs[0].name)


def shape_of(operation: Any) -> tuple[int | None, ...]:
    """Of an operation's first result."""
    return tensor_type(operation.outputs[0].type).shape


def type_of(operation: Any) -> tuple[str, tuple[int | None, ...]] | None:
    """Type and shape of an operation's first result; None for what is no tensor."""
    try:
        type_ = tensor_type(operation.outputs[0].type)
    except ValueError:
        return None
    return type_.data_type, type_.shape


def read_names(operations: list[Any]) -> set[str]:
    """Names of the values that operations read."""
    return {
        argument.name
        for operation in operations
        for bindings in operation.inputs.values()
        for argument in bindings.arguments
        if argument.WhichOneof("binding") == "name"
    }


def value_of(operation: Any, operations: list[Any], argument: str) -> Any:
    """The value message of a constexpr operand: an attribute (iOS 16), or an input, named or written there (iOS 18)."""
    if argument in operation.attributes:
        return operation.attributes[argument]
    binding = operation.inputs[argument].arguments[0]
    if binding.WhichOneof("binding") == "value":
        return binding.value
    return next(other for other in operations if name_of(other) == binding.name).attributes["val"]


def own_value(operation: Any, operations: list[Any], argument: str) -> Any:
    """The value of an operand, made the operation's own: written into it, where it was a constant with a name."""
    value = type(value_of(operation, operations, argument))()
    value.CopyFrom(value_of(operation, operations, argument))
    binding = operation.inputs[argument].arguments[0]
    binding.value.CopyFrom(value)
    return binding.value


def of_kinds(*kinds: str) -> Callable[[list[Any]], list[int]]:
    """Places of operations of these kinds."""
    return lambda operations: [place for place, operation in enumerate(operations) if operation.type in kinds]
