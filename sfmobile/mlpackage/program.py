"""An ML Program in memory: one function of an .mlpackage as inputs, constants, operations and outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.mlpackage import constexpr, schema
from sfmobile.mlpackage.value import TensorType, WeightFiles, read_value, tensor_type


@dataclass(frozen=True)
class Constant:
    """A constant, decoded anew (and, uncompressed, straight from the mapped file) by every `load`.

    Compressed floats come as float32 holding values of the declared type; everything else in its own type.
    `stored` are the arrays that a compressed constant is decoded from, by the argument of the last constexpr op.
    """

    type: TensorType
    load: Callable[[], np.ndarray | str]
    position: int = -1
    compressed: bool = False
    stored: dict[str, TensorType] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One operation: `inputs` by argument name, each a tuple of value names and literals (one unless variadic)."""

    position: int
    kind: str
    name: str
    inputs: dict[str, tuple[str | Constant, ...]]
    outputs: tuple[tuple[str, TensorType], ...]

    def __str__(self) -> str:
        return f"operation {self.position} '{self.name}' ({self.kind})"


@dataclass
class Program:
    """One function of a package. `operations` are in an order in which every operand precedes its use."""

    package: Path
    function: str
    opset: str
    inputs: dict[str, TensorType]
    outputs: tuple[str, ...]
    constants: dict[str, Constant] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def error(self, operation: Operation, found: str) -> UnavailableError:
        """An error that names the package, the operation and its position."""
        return UnavailableError(
            f"{self.package.name}: {operation} {found}, which the mil runtime doesn't execute; "
            "use the coreml runtime on a Mac, or export without it."
        )

    def output_types(self) -> dict[str, TensorType]:
        """Name and type of every output of the function, in order."""
        types = dict(self.inputs)
        types.update({name: constant.type for name, constant in self.constants.items()})
        types.update({name: type_ for operation in self.operations for name, type_ in operation.outputs})
        return {name: types[name] for name in self.outputs}


def _model_file(package: Path) -> Path:
    """The .mlmodel inside an .mlpackage, found through its Manifest.json."""
    manifest = package / "Manifest.json"
    try:
        listing = json.loads(manifest.read_bytes())
        root = listing["itemInfoEntries"][listing["rootModelIdentifier"]]["path"]
        parts = Path(str(root)).parts
    except FileNotFoundError:
        raise ArtifactError(f"{package} is no .mlpackage: its Manifest.json is missing; export it again.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{manifest} can't be read as a package manifest ({error}); export it again.") from error
    if Path(root).is_absolute() or ".." in parts:
        raise ArtifactError(f"{manifest} names '{root}', which isn't inside the package; export it again.")
    return package.joinpath("Data", *parts)


def _read_model(path: Path) -> Any:
    """The Model message of a .mlmodel file."""
    from google.protobuf.message import DecodeError

    model = schema.model().Model()
    try:
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; export the package again.") from None
    except DecodeError as error:
        raise ArtifactError(f"{path} is truncated or altered: {error}; export the package again.") from error
    if model.WhichOneof("Type") != "mlProgram":
        raise ArtifactError(
            f"{path} holds a model of kind '{model.WhichOneof('Type')}'; expected an ML Program (mlProgram)."
        )
    return model


def load_program(package: Path, function: str | None = None) -> Program:
    """Read one function of `package` (its default one, or "main", unless named). Weights stay memory-mapped.

    Raises `ArtifactError` if the package is missing, truncated or altered or has no such function, and
    `UnavailableError` if it uses something beyond tensors (lists, states, control flow).
    """
    if not package.is_dir():
        raise ArtifactError(f"{package} is missing; expected an .mlpackage directory.")
    path = _model_file(package)
    model = _read_model(path)
    functions = model.mlProgram.functions
    wanted = function or model.description.defaultFunctionName or "main"
    if wanted not in functions:
        raise ArtifactError(f"{package} has no function '{wanted}'; it has {', '.join(sorted(functions))}.")
    body = functions[wanted]
    block = body.block_specializations.get(body.opset)
    if block is None:
        raise ArtifactError(f"{package}: function '{wanted}' has no block for its opset '{body.opset}'.")
    return _Reader(package, wanted, body, block, WeightFiles(path.parent)).read()


def _input_type(package: Path, item: Any) -> TensorType:
    try:
        return tensor_type(item.type)
    except ValueError as error:
        raise UnavailableError(
            f"{package.name}: input '{item.name}' is {error}, which the mil runtime doesn't execute."
        ) from None


class _Reader:
    """Walks one block of the protobuf and collects its constants and operations."""

    def __init__(self, package: Path, function: str, body: Any, block: Any, weights: WeightFiles) -> None:
        inputs = {item.name: _input_type(package, item) for item in body.inputs}
        self.block = block
        self.weights = weights
        self.program = Program(package, function, body.opset, inputs, tuple(block.outputs))

    def read(self) -> Program:
        program = self.program
        known = set(program.inputs)
        for position, proto in enumerate(self.block.operations):
            operation = self._operation(position, proto)
            if operation.kind == "const":
                self._add_constant(operation, proto)
            elif operation.kind in constexpr.DECODERS:
                self._add_compressed(operation)
            else:
                for name in (item for items in operation.inputs.values() for item in items if isinstance(item, str)):
                    if name not in known:
                        raise ArtifactError(f"{program.package.name}: {operation} uses '{name}' before it is computed.")
                program.operations.append(operation)
            known.update(name for name, _ in operation.outputs)
        for name in program.outputs:
            if name not in known:
                raise ArtifactError(
                    f"{program.package.name}: output '{name}' of '{program.function}' is never computed."
                )
        return program

    def _operation(self, position: int, proto: Any) -> Operation:
        name = read_value(proto.attributes["name"], self.weights) if "name" in proto.attributes else f"#{position}"
        bare = Operation(position, proto.type, str(name), {}, ())
        if proto.blocks:
            raise self.program.error(bare, "holds nested blocks (control flow)")
        try:
            outputs = tuple((item.name, tensor_type(item.type)) for item in proto.outputs)
        except ValueError as error:
            raise self.program.error(bare, f"gives {error}") from None
        inputs: dict[str, tuple[str | Constant, ...]] = {
            argument: tuple(
                binding.name if binding.WhichOneof("binding") == "name" else self._literal(bare, binding.value)
                for binding in bindings.arguments
            )
            for argument, bindings in proto.inputs.items()
        }
        if proto.type != "const":
            # iOS 16 keeps the operands of constexpr ops, and nothing else, in attributes.
            for argument, value in proto.attributes.items():
                if argument != "name":
                    inputs[argument] = (self._literal(bare, value),)
        return Operation(position, proto.type, str(name), inputs, outputs)

    def _literal(self, operation: Operation, proto: Any) -> Constant:
        try:
            type_ = tensor_type(proto.type)
        except ValueError as error:
            raise self.program.error(operation, f"takes {error}") from None
        return Constant(type_, partial(self._load, operation, proto), operation.position)

    def _load(self, operation: Operation, proto: Any) -> np.ndarray | str:
        try:
            return read_value(proto, self.weights)
        except ValueError as error:
            raise ArtifactError(f"{self.program.package.name}: {operation} holds {error}; export it again.") from None

    def _add_constant(self, operation: Operation, proto: Any) -> None:
        if len(operation.outputs) != 1 or "val" not in proto.attributes:
            raise ArtifactError(f"{self.program.package.name}: {operation} has no value; export it again.")
        ((name, _),) = operation.outputs
        self.program.constants[name] = self._literal(operation, proto.attributes["val"])

    def _add_compressed(self, operation: Operation) -> None:
        stored: dict[str, TensorType] = {}
        for argument, items in operation.inputs.items():
            for item in items:
                constant = self.program.constants.get(item) if isinstance(item, str) else item
                if constant is not None:
                    stored.update(constant.stored or {argument: constant.type})
        for index, (name, type_) in enumerate(operation.outputs):
            load = partial(self._decompress, operation, index)
            self.program.constants[name] = Constant(type_, load, operation.position, True, stored)

    def _decompress(self, operation: Operation, index: int) -> np.ndarray:
        arguments: dict[str, np.ndarray | str] = {}
        for argument, items in operation.inputs.items():
            (item,) = items
            constant = self.program.constants.get(item) if isinstance(item, str) else item
            if constant is None:
                raise ArtifactError(
                    f"{self.program.package.name}: {operation} takes '{item}', which is no constant; export it again."
                )
            arguments[argument] = constant.load()
        declared = [type_.data_type for _, type_ in operation.outputs]
        try:
            value = constexpr.decode(operation.kind, arguments, declared)[index]
        except (TypeError, ValueError, IndexError) as error:
            raise ArtifactError(
                f"{self.program.package.name}: {operation} can't be decompressed: {error}; export it again."
            ) from error
        if value.shape != operation.outputs[index][1].shape:
            raise ArtifactError(
                f"{self.program.package.name}: {operation} decompresses to shape {value.shape}; expected "
                f"{operation.outputs[index][1].shape}; export it again."
            )
        return value
