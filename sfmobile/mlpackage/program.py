"""An ML Program in memory: one function of an .mlpackage as inputs, constants, operations and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.mlpackage import constexpr
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.types import ListType, StateType, TensorType, value_type
from sfmobile.mlpackage.value import read_value
from sfmobile.mlpackage.weight_file import BLOB_METADATA, WeightFiles


@dataclass(frozen=True)
class Constant:
    """A constant, decoded anew (and, uncompressed, straight from the mapped file) by every `load`.

    Compressed floats come as float32 holding values of the declared type; everything else in its own type.

    position: of the operation that holds it, in the package's block. file_bytes: what that operation keeps in a weight
    file, metadata included. compressed: decoded by a constexpr op. stored: the arrays that a compressed constant is
    decoded from, by the argument of the last constexpr op. sources: the constants among them that have a name.
    encoded: that op's kind and its arguments' values, for who decodes it elsewhere. mark: where its content lies; two
    constants of one package that have the same mark hold the same.
    """

    type: TensorType
    load: Callable[[], np.ndarray | str]
    position: int = -1
    file_bytes: int = 0
    compressed: bool = False
    stored: dict[str, TensorType] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    encoded: Callable[[], tuple[str, dict[str, np.ndarray | str]]] | None = None
    mark: Callable[[], bytes] | None = None


# What an operation reads: a value by its name, or a constant written into the operation.
Operand: TypeAlias = "str | Constant"
# The argument under which an operation with blocks reads what they take from outside.
CAPTURED = "captured"
# Operations that are there for what they do, not for what they give.
EFFECTS = frozenset({"write_state", "coreml_update_state"})


@dataclass(frozen=True)
class Operation:
    """One operation: `inputs` by argument name, each a tuple of value names and literals (one unless variadic).

    position: in the package's block, constants counted. blocks: of control flow. What they take from outside are
    their last inputs, and are read by the operation as `CAPTURED`.
    """

    position: int
    kind: str
    name: str
    inputs: dict[str, tuple[Operand, ...]]
    outputs: tuple[tuple[str, TensorType], ...]
    blocks: tuple[Program, ...] = ()

    def __str__(self) -> str:
        return f"operation {self.position} '{self.name}' ({self.kind})"

    def reads(self) -> Iterator[str]:
        """Names of the values it reads, constants included, once per mention."""
        return (item for items in self.inputs.values() for item in items if isinstance(item, str))

    def makes(self) -> tuple[str, ...]:
        """Names of its results."""
        return tuple(name for name, _ in self.outputs)

    @property
    def has_effect(self) -> bool:
        """Whether it must run even if nobody reads its results."""
        return self.kind in EFFECTS or any(one.has_effect for block in self.blocks for one in block.operations)


@dataclass
class Program:
    """One function of a package, or one block of an operation.

    `operations` are in an order in which every operand precedes its use. states: what it keeps between calls.
    """

    package: Path
    function: str
    opset: str
    inputs: dict[str, TensorType]
    outputs: tuple[str, ...]
    constants: dict[str, Constant] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    states: dict[str, StateType] = field(default_factory=dict)

    def error(self, operation: Operation, found: str) -> UnavailableError:
        """An error that names the package, the operation and its position."""
        return UnavailableError(
            f"{self.package.name}: {operation} {found}, which the mil runtime doesn't execute; "
            "use the coreml runtime on a Mac, or export without it."
        )

    def broken(self, operation: Operation, found: object, mend: str = "export it again") -> ArtifactError:
        """An error for an operation whose operands don't go together: no runtime could execute it."""
        return ArtifactError(f"{self.package.name}: {operation} can't be computed ({_brief(found)}); {mend}.")

    def constant(self, operand: Operand | None) -> Constant | None:
        """The constant that an operand is; None for anything computed or absent."""
        return self.constants.get(operand) if isinstance(operand, str) else operand

    def output_types(self) -> dict[str, TensorType]:
        """Name and type of every output of the function, in order."""
        types = {**self.inputs, **self.states}
        types.update({name: constant.type for name, constant in self.constants.items()})
        types.update({name: type_ for operation in self.operations for name, type_ in operation.outputs})
        return {name: types[name] for name in self.outputs}


def blocks_of(program: Program) -> Iterator[Program]:
    """A program and the blocks of its operations, and theirs."""
    yield program
    for operation in program.operations:
        for block in operation.blocks:
            yield from blocks_of(block)


def load_program(package: Path, function: str | None = None) -> Program:
    """Read one function of `package` (its default one unless named). Weights stay memory-mapped.

    Raises what `Package` and `read_program` raise.
    """
    return read_program(Package(package), function)


def read_program(package: Package, function: str | None = None) -> Program:
    """One function of an opened package (its default one unless named).

    Raises `ArtifactError` if there is no such function or its operations don't fit together, `UnavailableError` if it
    uses types beyond tensors, lists of them and states.
    """
    body, block = package.function(function), package.block(function)
    types = {item.name: _input_type(package.path, item) for item in body.inputs}
    states = {name: type_ for name, type_ in types.items() if isinstance(type_, StateType)}
    inputs = {name: type_ for name, type_ in types.items() if name not in states}
    name = function or package.default_function
    program = Program(package.path, name, body.opset, inputs, tuple(block.outputs), states=states)
    return _Reader(program, block, package.weights).read()


def _brief(found: object) -> str:
    """The first line of what went wrong, at a sentence's length."""
    lines = str(found).strip().splitlines() or [type(found).__name__]
    return lines[0][:300].rstrip(".")


def _input_type(package: Path, item: Any) -> TensorType:
    try:
        return value_type(item.type)
    except ValueError as error:
        raise UnavailableError(
            f"{package.name}: input '{item.name}' is {error}, which the mil runtime doesn't execute."
        ) from None


class _Reader:
    """Walks one block of the protobuf and collects its constants and operations."""

    def __init__(self, program: Program, block: Any, weights: WeightFiles, outer: _Reader | None = None) -> None:
        """`program` has its inputs, and no operations yet. outer: who reads the block around."""
        self.program = program
        self.block = block
        self.weights = weights
        self.outer = outer
        self.known: dict[str, TensorType] = {**program.inputs, **program.states}
        # What is taken from outside, constants included, in the order in which it is met.
        self.captured: dict[str, None] = {}

    def read(self) -> Program:
        program = self.program
        made = set(self.known)
        for position, proto in enumerate(self.block.operations):
            operation = self._operation(position, proto)
            for name in operation.makes():
                if name in made:
                    raise ArtifactError(f"{program.package.name}: {operation} makes '{name}', which is there already.")
                made.add(name)
            if operation.kind == "const":
                self._add_constant(operation, proto)
                self.known.update(operation.outputs)
                continue
            for name in operation.reads():
                if not self.knows(name):
                    raise ArtifactError(f"{program.package.name}: {operation} uses '{name}' before it is computed.")
            if operation.kind in constexpr.DECODERS:
                self._add_compressed(operation)
            else:
                program.operations.append(operation)
            self.known.update(operation.outputs)
        for name in program.outputs:
            if not self.knows(name):
                raise ArtifactError(
                    f"{program.package.name}: output '{name}' of '{program.function}' is never computed."
                )
        return program

    def knows(self, name: str) -> bool:
        """Whether a value is defined here or further out; what is further out becomes an input of the block."""
        if name in self.known:
            return True
        if self.outer is None or not self.outer.knows(name):
            return False
        constant = self.outer.program.constants.get(name)
        if constant is None:
            self.program.inputs[name] = self.outer.known[name]
        else:
            self.program.constants[name] = constant
        self.known[name] = self.outer.known[name]
        self.captured[name] = None
        return True

    def _operation(self, position: int, proto: Any) -> Operation:
        name = self._name(position, proto)
        bare = Operation(position, proto.type, name, {}, ())
        try:
            outputs = tuple((item.name, value_type(item.type)) for item in proto.outputs)
        except ValueError as error:
            raise self.program.error(bare, f"gives {error}") from None
        inputs: dict[str, tuple[Operand, ...]] = {
            argument: tuple(
                binding.name if binding.WhichOneof("binding") == "name" else self._literal(bare, binding.value)
                for binding in bindings.arguments
            )
            # Protobuf's maps have another order in each process; everything made from a program must not.
            for argument, bindings in sorted(proto.inputs.items())
        }
        if proto.type != "const":
            # iOS 16 keeps the operands of constexpr ops, and nothing else, in attributes.
            for argument, value in sorted(proto.attributes.items()):
                if argument != "name":
                    inputs[argument] = (self._literal(bare, value),)
        readers = [self._inner(bare, block) for block in proto.blocks]
        blocks = tuple(reader.read() for reader in readers)
        captured = dict.fromkeys(name for reader in readers for name in reader.captured)
        if captured:
            inputs[CAPTURED] = tuple(captured)
        return Operation(position, proto.type, name, inputs, outputs, blocks)

    def _inner(self, operation: Operation, block: Any) -> _Reader:
        """Who reads a block of `operation`."""
        program = self.program
        try:
            inputs = {item.name: value_type(item.type) for item in block.inputs}
        except ValueError as error:
            raise program.error(operation, f"has a block that takes {error}") from None
        inner = Program(program.package, program.function, program.opset, inputs, tuple(block.outputs))
        return _Reader(inner, block, self.weights, self)

    def _name(self, position: int, proto: Any) -> str:
        """What an operation is called; its number where it has no name, or something else in its place."""
        if "name" in proto.attributes:
            with suppress(ValueError, ArtifactError):
                name = read_value(proto.attributes["name"], self.weights)
                if isinstance(name, str):
                    return name
        return f"#{position}"

    def _literal(self, operation: Operation, proto: Any) -> Constant:
        try:
            type_ = value_type(proto.type)
        except ValueError as error:
            raise self.program.error(operation, f"takes {error}") from None
        if isinstance(type_, ListType):
            type_ = ListType(type_.data_type, (len(proto.immediateValue.list.values),), type_.length)
        in_file = type_.bytes + BLOB_METADATA.size if proto.WhichOneof("value") == "blobFileValue" else 0
        load, mark = partial(self._load, operation, proto), partial(proto.SerializeToString, deterministic=True)
        return Constant(type_, load, operation.position, in_file, mark=mark)

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
        sources: list[str] = []
        file_bytes = 0
        for argument, items in operation.inputs.items():
            for item in items:
                constant = self.program.constant(item)
                if constant is not None:
                    stored.update(constant.stored or {argument: constant.type})
                if isinstance(item, str):
                    sources.append(item)
                else:
                    file_bytes += item.file_bytes
        for index, (name, type_) in enumerate(operation.outputs):
            load = partial(self._decompress, operation, index)
            encoded, mark = partial(self._encoded, operation), partial(self._mark, operation)
            self.program.constants[name] = Constant(
                type_, load, operation.position, file_bytes, True, stored, tuple(sources), encoded, mark
            )

    def _encoded(self, operation: Operation) -> tuple[str, dict[str, np.ndarray | str]]:
        arguments: dict[str, np.ndarray | str] = {}
        for argument, items in operation.inputs.items():
            (item,) = items
            constant = self.program.constant(item)
            if constant is None:
                raise ArtifactError(
                    f"{self.program.package.name}: {operation} takes '{item}', which is no constant; export it again."
                )
            arguments[argument] = constant.load()
        return operation.kind, arguments

    def _mark(self, operation: Operation) -> bytes:
        """The marks of what a constexpr op decodes."""
        parts = [operation.kind.encode()]
        for argument, items in operation.inputs.items():
            found = [self.program.constant(item) for item in items]
            parts += [argument.encode(), *(one.mark() for one in found if one is not None and one.mark is not None)]
        return b"\0".join(parts)

    def _decompress(self, operation: Operation, index: int) -> np.ndarray:
        _, arguments = self._encoded(operation)
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
