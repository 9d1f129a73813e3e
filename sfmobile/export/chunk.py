"""A package cut into chunks that run one after the other, each small enough for a phone to load and compile.

The program is cut as it stands in its file, weights already compressed: chunks hold the same operations and the same
bytes of weights. It is cut between two operations, in the order they are written in; what is computed before the cut
and read behind it becomes an output of one chunk and an input of others. Of the cuts that leave chunks of about equal
size the one with the least to hand over is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfmobile.bundle.manifest import ChunkRecord, TensorRecord
from sfmobile.errors import UsageError
from sfmobile.mlpackage.program_file import (
    MAIN,
    ProgramFile,
    TensorType,
    feature_tensor,
    is_constant,
    move_weights,
    names_read,
    new_weight_file,
    tensor_type,
    write_model,
)
from sfmobile.mlpackage.weight_file import WeightWriter

# By which share of an equal part a chunk's weights may differ from it; the next is tried if nothing fits one.
TOLERANCES = (0.1, 0.2, 0.4, 0.8, float("inf"))
# What Core ML takes as an input or output: these types, up to five dimensions.
HANDED_OVER = ("FLOAT16", "FLOAT32", "INT32")
MOST_DIMENSIONS = 5


@dataclass(frozen=True)
class Cut:
    """Chunks as stretches of the program's computing operations: chunk i is starts[i] to starts[i + 1].

    handed_over: bytes that cross each of the cuts.
    """

    starts: tuple[int, ...]
    handed_over: tuple[int, ...]


class ProgramGraph:
    """What the operations of one function compute, in order, and which of them read what."""

    def __init__(self, program: ProgramFile) -> None:
        block = program.block()
        self.constants: dict[str, Any] = {}
        self.operations: list[Any] = []
        self.types: dict[str, TensorType] = {}
        for operation in block.operations:
            if is_constant(operation):
                self.constants.update({output.name: operation for output in operation.outputs})
            else:
                self.operations.append(operation)
                self.types.update({output.name: tensor_type(output.type) for output in operation.outputs})
        self.inputs = [item.name for item in program.function().inputs]
        self.outputs = list(block.outputs)
        self.made = {
            output.name: place for place, operation in enumerate(self.operations) for output in operation.outputs
        }
        self.last_read = {
            name: place for place, operation in enumerate(self.operations) for name in names_read(operation)
        }
        self.weight_bytes = self._weight_bytes(program)

    def _weight_bytes(self, program: ProgramFile) -> NDArray[np.int64]:
        """Bytes of weights that each operation is the first to read."""
        counted: set[str] = set()
        sizes = np.zeros(len(self.operations), np.int64)
        for place, operation in enumerate(self.operations):
            for constant in self.constants_of(operation):
                name = constant.outputs[0].name
                if name not in counted:
                    counted.add(name)
                    sizes[place] += program.stored_bytes(constant)
        return sizes

    def constants_of(self, operation: Any) -> list[Any]:
        """The constants that an operation reads, each behind those that it is made from."""
        found: list[Any] = []
        for name in names_read(operation):
            constant = self.constants.get(name)
            if constant is not None:
                found += [*self.constants_of(constant), constant]
        return found

    def crossing(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For a cut in front of each operation: bytes that cross it, and whether Core ML can hand all of it over."""
        count = len(self.operations)
        steps, blocked = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
        for name, place in self.made.items():
            last = self.last_read.get(name, -1)
            if last > place:
                type_ = self.types[name]
                steps[place + 1] += type_.bytes
                steps[last + 1] -= type_.bytes
                if type_.data_type not in HANDED_OVER or not 1 <= len(type_.shape) <= MOST_DIMENSIONS:
                    blocked[place + 1] += 1
                    blocked[last + 1] -= 1
        return np.cumsum(steps)[:count], np.cumsum(blocked)[:count] == 0


def find_cut(graph: ProgramGraph, chunks: int) -> Cut:
    """The cut into `chunks` stretches of about equal weights that hands over the least.

    Raises `UsageError` if the program can't be cut into so many.
    """
    count = len(graph.operations)
    if chunks > np.count_nonzero(graph.weight_bytes):
        raise UsageError(f"The program can't be cut into {chunks} chunks, each with weights; ask for fewer.")
    crossing, possible = graph.crossing()
    before = np.concatenate([[0], np.cumsum(graph.weight_bytes)])
    share = before[-1] / chunks
    for tolerance in TOLERANCES:
        least, most = share * (1 - tolerance), share * (1 + tolerance)
        if tolerance == TOLERANCES[-1]:
            least, most = 1.0, float("inf")
        # cost[k]: bytes handed over if the stretches so far end in front of operation k.
        cost = np.full(count + 1, np.inf)
        cost[0] = 0.0
        sources: list[NDArray[np.int64]] = []
        for chunk in range(1, chunks + 1):
            following = np.full(count + 1, np.inf)
            source = np.full(count + 1, -1, np.int64)
            ends = [count] if chunk == chunks else range(1, count)
            for end in ends:
                if end < count and not possible[end]:
                    continue
                low = int(np.searchsorted(before, before[end] - most, "left"))
                high = int(np.searchsorted(before, before[end] - least, "right"))
                high = min(high, end)
                if low < high:
                    start = low + int(cost[low:high].argmin())
                    following[end] = cost[start] + (crossing[end] if end < count else 0)
                    source[end] = start
            cost = following
            sources.append(source)
        if np.isfinite(cost[count]):
            starts = [count]
            for source in reversed(sources):
                starts.append(int(source[starts[-1]]))
            starts.reverse()
            return Cut(tuple(starts), tuple(int(crossing[start]) for start in starts[1:-1]))
    raise UsageError(f"The program can't be cut into {chunks} chunks; ask for fewer.")


def write_chunks(package: Path, folder: Path, chunks: int) -> tuple[ChunkRecord, ...]:
    """Cut `package` into `chunks` packages in the new directory `folder`, named after it with a number.

    Records name packages relative to the directory that holds `folder`. Raises `UsageError` for a number of chunks
    that isn't possible.
    """
    program = ProgramFile(package)
    graph = ProgramGraph(program)
    cut = find_cut(graph, chunks)
    folder.mkdir()
    known = {feature.name: feature_tensor(feature) for feature in program.model.description.input}
    known |= {feature.name: feature_tensor(feature) for feature in program.model.description.output}
    records = []
    for number in range(chunks):
        path = folder / f"{folder.name}{number + 1}.mlpackage"
        writer = _ChunkWriter(program, graph, cut, number)
        writer.write(path, known)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        relative = path.relative_to(folder.parent).as_posix()
        inputs, outputs = (tuple(known[name] for name in names) for names in (writer.inputs, writer.outputs))
        records.append(ChunkRecord(package=relative, inputs=inputs, outputs=outputs, bytes=size))
    return tuple(records)


class _ChunkWriter:
    """One chunk: its operations, what it takes and what it gives."""

    def __init__(self, program: ProgramFile, graph: ProgramGraph, cut: Cut, number: int) -> None:
        self.program, self.graph = program, graph
        self.number, self.total = number, len(cut.starts) - 1
        start, stop = cut.starts[number], cut.starts[number + 1]
        self.operations = graph.operations[start:stop]
        read = dict.fromkeys(name for operation in self.operations for name in names_read(operation))
        made = dict.fromkeys(output.name for operation in self.operations for output in operation.outputs)
        carried = [name for name in read if name in graph.made and name not in made]
        self.inputs = [name for name in graph.inputs if name in read] + carried
        self.outputs = [name for name in made if graph.last_read.get(name, -1) >= stop or name in graph.outputs]

    def write(self, path: Path, known: dict[str, TensorRecord]) -> None:
        """Write the package `path`; adds the tensors it hands over to `known`."""
        from coremltools.proto import Model_pb2

        source = self.program.model
        model = Model_pb2.Model(specificationVersion=source.specificationVersion)
        model.isUpdatable = source.isUpdatable
        model.description.metadata.CopyFrom(source.description.metadata)
        model.description.metadata.userDefined["com.sfmobile.chunk"] = f"{self.number + 1}/{self.total}"
        model.mlProgram.version = source.mlProgram.version
        for key, value in source.mlProgram.attributes.items():
            model.mlProgram.attributes[key].CopyFrom(value)
        self._fill_function(model.mlProgram.functions[MAIN])
        with WeightWriter(new_weight_file(path)) as weights:
            function = model.mlProgram.functions[MAIN]
            move_weights(self.program, function.block_specializations[function.opset].operations, weights)
        self._describe(model.description, known)
        write_model(model, path)

    def _fill_function(self, function: Any) -> None:
        """Inputs, operations (constants where they are first read) and outputs."""
        source = self.program.function()
        function.opset = source.opset
        types = {item.name: item.type for item in source.inputs}
        types |= {output.name: output.type for operation in self.graph.operations for output in operation.outputs}
        for name in self.inputs:
            function.inputs.add(name=name).type.CopyFrom(types[name])
        block = function.block_specializations[source.opset]
        block.CopyFrom(type(block)(outputs=self.outputs))
        written: set[str] = set()
        for operation in self.operations:
            for constant in self.graph.constants_of(operation):
                if constant.outputs[0].name not in written:
                    written.add(constant.outputs[0].name)
                    block.operations.add().CopyFrom(constant)
            block.operations.add().CopyFrom(operation)

    def _describe(self, description: Any, known: dict[str, TensorRecord]) -> None:
        """Features of the model: the component's own as they were, the ones handed over by name and type."""
        originals = {
            feature.name: feature
            for feature in (*self.program.model.description.input, *self.program.model.description.output)
        }
        for names, features in ((self.inputs, description.input), (self.outputs, description.output)):
            for name in names:
                feature = features.add(name=name)
                if name in originals:
                    feature.CopyFrom(originals[name])
                else:
                    array = feature.type.multiArrayType
                    type_ = self.graph.types[name]
                    array.shape.extend(size or 1 for size in type_.shape)
                    array.dataType = getattr(type(array), type_.data_type)
                    verb = (
                        "Handed over to a later chunk" if names is self.outputs else "Handed over by an earlier chunk"
                    )
                    feature.shortDescription = f"{verb}."
                    known.setdefault(name, feature_tensor(feature))
