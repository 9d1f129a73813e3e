"""Weights filled into an outline: the package that coremltools would have written of the program with its weights.

Blobs are laid out as its own writer does: in the order of the operations, constants of ten values or more in the weight
file, smaller ones in the program, lookup tables in the form that the opset stores. Each weight is read, checked,
palettized and written once, several of them at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sfmobile.compress.palettize import group_size, palettize_weight, worker_count
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.errors import ArtifactError
from sfmobile.export.outline import Outline, left_out
from sfmobile.mlpackage import schema
from sfmobile.mlpackage.names import palettized_name
from sfmobile.mlpackage.package import WEIGHT_FILE, WEIGHTS_FOLDER, new_weight_file, rename_reads
from sfmobile.mlpackage.types import DATA_TYPES, tensor_type
from sfmobile.mlpackage.value import read_value
from sfmobile.mlpackage.weight_file import MODEL_PATH, Blob, WeightFiles, WeightWriter

# Weights in work at a time, beyond one per worker: bounds the memory of those that wait to be written.
LOOKAHEAD = 2
# Constants of fewer values are written into the program.
LEAST_IN_FILE = 10
# What older systems take from a weight file; iOS 18 takes every type that has a code there.
EARLY_TYPES = frozenset({"fp16", "fp32", "uint8", "int8"})
IOS_18 = 9


class Weights(Protocol):
    """Where weights come from, by their state-dict keys; called from several threads."""

    def read(self, key: str) -> NDArray[np.float16]:
        """A weight as float16, whatever it holds then."""

    def check(self, key: str) -> None:
        """Raise `ArtifactError` naming a weight that is not finite as float16."""


@dataclass(frozen=True)
class HeldWeights:
    """Weights in memory."""

    arrays: Mapping[str, NDArray[np.float16]]

    def read(self, key: str) -> NDArray[np.float16]:
        """A weight."""
        return self.arrays[key]

    def check(self, key: str) -> None:
        """Raise `ArtifactError` naming a weight that is not finite."""
        if not np.isfinite(self.arrays[key]).all():
            raise ArtifactError(f"Weight '{key}' holds infinite values or NaN as float16.")


@dataclass(frozen=True)
class _Stored:
    """One array as a program stores it: of a MIL type, raw bytes (packed where narrower than a byte)."""

    data_type: str
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]

    def blob(self) -> Blob:
        kind = DATA_TYPES[self.data_type]
        assert kind.blob is not None
        bits = kind.bits * int(np.prod(self.shape))
        return Blob(kind.blob, 8 * self.raw.size - bits if kind.bits < 8 else 0, self.raw)

    def value(self) -> Any:
        """The protobuf value with its type and nothing in it yet."""
        value = schema.mil().Value()
        tensor = value.type.tensorType
        tensor.dataType, tensor.rank = DATA_TYPES[self.data_type].number, len(self.shape)
        for size in self.shape:
            tensor.dimensions.add().constant.size = size
        return value


@dataclass(frozen=True)
class Filled:
    """model: the model file's protobuf, to be written beside the weight file, whose SHA-256 is `weights_sha256`."""

    model: Any
    weights_sha256: str


def fill(
    outline: Outline,
    path: Path,
    weights: Weights,
    layers: Mapping[str, LayerRecipe],
    advance: Callable[[int], None],
) -> Filled:
    """Write the weight file of the new package `path` and return what belongs to it.

    layers: how constants are palettized, by their name; the others are float16. `advance` is told the number of values
    palettized. Raises `ArtifactError` naming a weight that is not finite, `OSError` if the disk is full.
    """
    model = type(outline.model)()
    model.CopyFrom(outline.model)
    block = Outline(model).block
    new = model.specificationVersion >= IOS_18
    constants = [operation for operation in block.operations if operation.type == "const"]

    def work(operation: Any) -> dict[str, _Stored]:
        value = operation.attributes["val"]
        key = left_out(value)
        if key is None:
            return {"val": _written_in(value)} if _belongs_in_file(value, new) else {}
        name = operation.outputs[0].name
        if name not in layers:
            weights.check(key)
            return {"val": _half(weights.read(key))}
        try:
            # The palettizer looks at every value itself.
            return _palettized(weights.read(key), layers[name], new)
        except ValueError as error:
            weights.check(key)
            raise ArtifactError(f"Weight '{name}' can't be palettized: {error}.") from error

    def blobs(operation: Any) -> int:
        """How many arrays `work` will give to the weight file."""
        value = operation.attributes["val"]
        if left_out(value) is None:
            return int(_belongs_in_file(value, new))
        layer = layers.get(operation.outputs[0].name)
        shape = tensor_type(operation.outputs[0].type).sizes
        return sum(math.prod(one) >= LEAST_IN_FILE for one in _stored_shapes(shape, layer, new))

    renamed: dict[str, str] = {}
    with WeightWriter(new_weight_file(path), once=False, count=sum(map(blobs, constants))) as writer:
        for operation, stored in _in_order(work, constants):
            if "lut" in stored:
                name = operation.outputs[0].name
                renamed[name] = palettized_name(name)
                _look_up(operation, stored, writer, new)
                advance(tensor_type(operation.outputs[0].type).elements)
            elif stored:
                operation.attributes["val"].CopyFrom(_place(stored["val"], writer))
    rename_reads(block.operations, renamed)
    assert writer.sha256 is not None
    return Filled(model, writer.sha256)


def _in_order(
    work: Callable[[Any], dict[str, _Stored]], operations: Iterable[Any]
) -> Iterator[tuple[Any, dict[str, _Stored]]]:
    """Results of `work` in order, computed on several threads (reading and the compiled loops release the GIL)."""
    workers = worker_count()
    with ThreadPoolExecutor(workers, "palettize") as pool:
        running: list[tuple[Any, Future[dict[str, _Stored]]]] = []
        try:
            for operation in operations:
                running.append((operation, pool.submit(work, operation)))
                if len(running) > workers + LOOKAHEAD:
                    done, future = running.pop(0)
                    yield done, future.result()
            for done, future in running:
                yield done, future.result()
        finally:
            for _, future in running:
                future.cancel()


def _belongs_in_file(value: Any, new: bool) -> bool:
    if value.type.WhichOneof("type") != "tensorType":
        return False
    type_ = tensor_type(value.type)
    kind = DATA_TYPES[type_.data_type]
    return type_.elements >= LEAST_IN_FILE and (type_.data_type in EARLY_TYPES or (new and kind.blob is not None))


def _written_in(value: Any) -> _Stored:
    """A constant that the outline holds itself."""
    array = read_value(value, WeightFiles(Path()))
    assert isinstance(array, np.ndarray)
    type_ = tensor_type(value.type)
    return _Stored(type_.data_type, type_.sizes, np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _half(weight: NDArray[np.float16]) -> _Stored:
    return _Stored("fp16", weight.shape, np.ascontiguousarray(weight).reshape(-1).view(np.uint8))


def _stored_shapes(shape: tuple[int, ...], layer: LayerRecipe | None, new: bool) -> tuple[tuple[int, ...], ...]:
    """Shapes of the arrays that store a weight of a shape."""
    if layer is None:
        return (shape,)
    entries = (shape[0] // group_size(shape[0], layer)) << layer.bits
    if new:
        return (shape, (entries,))
    return ((math.prod(shape) * layer.bits + 7) // 8,), (entries,), (len(shape),)


def _palettized(weight: NDArray[np.float16], layer: LayerRecipe, new: bool) -> dict[str, _Stored]:
    """The operands of the lookup that gives a weight, by their name, in the order they are stored."""
    made = palettize_weight(weight, layer)
    packed = made.packed()
    if new:
        trailing = (1,) * (weight.ndim - 1)
        tables = made.luts.reshape((len(made.luts), *trailing, 1 << made.bits, 1))
        return {"indices": _Stored(f"uint{made.bits}", weight.shape, packed), "lut": _half(tables)}
    return {
        "indices": _Stored("uint8", packed.shape, packed),
        "lut": _half(made.luts[0]),
        "shape": _Stored("uint32", (weight.ndim,), np.array(weight.shape, "<u4").view(np.uint8)),
    }


def _place(stored: _Stored, writer: WeightWriter) -> Any:
    """The value of an array: in the weight file, or in the program if it is small."""
    value = stored.value()
    if int(np.prod(stored.shape)) >= LEAST_IN_FILE:
        value.blobFileValue.fileName = f"{MODEL_PATH}/{WEIGHTS_FOLDER}/{WEIGHT_FILE}"
        value.blobFileValue.offset = writer.add(stored.blob())
    else:
        value.immediateValue.tensor.bytes.values = stored.raw.tobytes()
    return value


def _look_up(operation: Any, stored: Mapping[str, _Stored], writer: WeightWriter, new: bool) -> None:
    """Make a constant the lookup of its values in a table."""
    operation.type = "constexpr_lut_to_dense"
    name = palettized_name(operation.outputs[0].name)
    operation.outputs[0].name = name
    operation.attributes["name"].immediateValue.tensor.strings.values[0] = name
    del operation.attributes["val"]
    for operand, array in stored.items():
        value = _place(array, writer)
        if new:
            operation.inputs[operand].arguments.add().value.CopyFrom(value)
        else:
            operation.attributes[operand].CopyFrom(value)
