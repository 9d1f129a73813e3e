"""A package cut into chunks that run one after the other, each small enough for a phone to load and compile.

The program is cut as it stands in its file, weights already compressed: chunks hold the same operations and the same
bytes of weights. It is cut between two operations, in the order they are written in; what is computed before the cut
and read behind it becomes an output of one chunk and an input of others. Of the cuts that leave chunks of about equal
size the one with the least to hand over is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfmobile.bundle.manifest import ChunkRecord, TensorRecord
from sfmobile.errors import UsageError
from sfmobile.mlpackage import schema
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.package import MAIN, Package, copy_weights, new_weight_file, write_model
from sfmobile.mlpackage.program import read_program
from sfmobile.mlpackage.weight_file import WeightWriter

# By which share of an equal part a chunk's weights may differ from it; the next is tried if nothing fits one.
TOLERANCES = (0.1, 0.2, 0.4, 0.8, float("inf"))
MOST_DIMENSIONS = 5


class Feature(NamedTuple):
    """What Core ML calls a data type where it is an input or output, and what the manifest calls it."""

    name: str
    dtype: str


# What Core ML takes as an input or output: these types, up to five dimensions.
FEATURES = {
    "fp16": Feature("FLOAT16", "float16"),
    "fp32": Feature("FLOAT32", "float32"),
    "int32": Feature("INT32", "int32"),
}
DTYPES = {feature.name: feature.dtype for feature in FEATURES.values()}


@dataclass(frozen=True)
class Cut:
    """Chunks as stretches of the program's computing operations: chunk i is starts[i] to starts[i + 1].

    handed_over: bytes that cross each of the cuts.
    """

    starts: tuple[int, ...]
    handed_over: tuple[int, ...]


def weight_bytes(graph: Graph) -> NDArray[np.int64]:
    """Bytes of weights that each operation is the first to read."""
    counted: set[int] = set()
    sizes = np.zeros(len(graph.program.operations), np.int64)
    for place, operation in enumerate(graph.program.operations):
        for _, constant in graph.constants_behind(operation):
            if constant.position not in counted:
                counted.add(constant.position)
                sizes[place] += constant.file_bytes
    return sizes


def crossing(graph: Graph) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For a cut in front of each operation: bytes that cross it, and whether Core ML can hand all of it over."""
    count = len(graph.program.operations)
    steps, blocked = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    for name, life in graph.lives.items():
        if 0 <= life.made < life.last:
            type_ = graph.types[name]
            steps[life.made + 1] += type_.bytes
            steps[life.last + 1] -= type_.bytes
            if type_.data_type not in FEATURES or not 1 <= len(type_.shape) <= MOST_DIMENSIONS:
                blocked[life.made + 1] += 1
                blocked[life.last + 1] -= 1
    return np.cumsum(steps)[:count], np.cumsum(blocked)[:count] == 0


def find_cut(graph: Graph, chunks: int) -> Cut:
    """The cut into `chunks` stretches of about equal weights that hands over the least.

    Raises `UsageError` if the program can't be cut into so many.
    """
    count, sizes = len(graph.program.operations), weight_bytes(graph)
    if chunks > np.count_nonzero(sizes):
        raise UsageError(f"The program can't be cut into {chunks} chunks, each with weights; ask for fewer.")
    handed_over, possible = crossing(graph)
    before = np.concatenate([[0], np.cumsum(sizes)])
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
                    following[end] = cost[start] + (handed_over[end] if end < count else 0)
                    source[end] = start
            cost = following
            sources.append(source)
        if np.isfinite(cost[count]):
            starts = [count]
            for source in reversed(sources):
                starts.append(int(source[starts[-1]]))
            starts.reverse()
            return Cut(tuple(starts), tuple(int(handed_over[start]) for start in starts[1:-1]))
    raise UsageError(f"The program can't be cut into {chunks} chunks; ask for fewer.")


def write_chunks(path: Path, folder: Path, chunks: int) -> tuple[ChunkRecord, ...]:
    """Cut the package `path` into `chunks` packages in the new directory `folder`, named after it with a number.

    Records name packages relative to the directory that holds `folder`. Raises `UsageError` for a number of chunks
    that isn't possible.
    """
    package = Package(path)
    graph = Graph(read_program(package))
    cut = find_cut(graph, chunks)
    folder.mkdir()
    described = package.model.description
    known = {feature.name: feature_tensor(feature) for feature in (*described.input, *described.output)}
    records = []
    for number in range(chunks):
        target = folder / f"{folder.name}{number + 1}.mlpackage"
        writer = _ChunkWriter(package, graph, cut, number)
        writer.write(target, known)
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        relative = target.relative_to(folder.parent).as_posix()
        inputs, outputs = (tuple(known[name] for name in names) for names in (writer.inputs, writer.outputs))
        records.append(ChunkRecord(package=relative, inputs=inputs, outputs=outputs, bytes=size))
    return tuple(records)


def feature_tensor(feature: Any) -> TensorRecord:
    """An input or output of a model's description as the manifest records it."""
    array = feature.type.multiArrayType
    return TensorRecord.model_validate(
        {
            "name": feature.name,
            "shape": tuple(array.shape),
            "dtype": DTYPES[type(array).ArrayDataType.Name(array.dataType)],
            "description": feature.shortDescription,
        }
    )


class _ChunkWriter:
    """One chunk: its operations, what it takes and what it gives."""

    def __init__(self, package: Package, graph: Graph, cut: Cut, number: int) -> None:
        self.package, self.graph = package, graph
        self.number, self.total = number, len(cut.starts) - 1
        start, stop = cut.starts[number], cut.starts[number + 1]
        self.operations = graph.program.operations[start:stop]
        read = dict.fromkeys(name for operation in self.operations for name in operation.reads())
        made = dict.fromkeys(name for operation in self.operations for name in operation.makes())
        carried = [name for name in read if name in graph.makers and name not in made]
        self.inputs = [name for name in graph.program.inputs if name in read] + carried
        self.outputs = [name for name in made if graph.lives[name].last >= stop or graph.lives[name].kept]

    def write(self, path: Path, known: dict[str, TensorRecord]) -> None:
        """Write the package `path`; adds the tensors it hands over to `known`."""
        source = self.package.model
        model = schema.model().Model(specificationVersion=source.specificationVersion)
        model.isUpdatable = source.isUpdatable
        model.description.metadata.CopyFrom(source.description.metadata)
        model.description.metadata.userDefined["com.sfmobile.chunk"] = f"{self.number + 1}/{self.total}"
        model.mlProgram.version = source.mlProgram.version
        for key, value in source.mlProgram.attributes.items():
            model.mlProgram.attributes[key].CopyFrom(value)
        function = model.mlProgram.functions[MAIN]
        self._fill_function(function)
        with WeightWriter(new_weight_file(path)) as weights:
            copy_weights(self.package, function.block_specializations[function.opset].operations, weights)
        self._describe(model.description, known)
        write_model(model, path)

    def _fill_function(self, function: Any) -> None:
        """Inputs, operations (constants where they are first read) and outputs."""
        source, whole = self.package.function(), self.package.block()
        function.opset = source.opset
        types = {item.name: item.type for item in source.inputs}
        types |= {output.name: output.type for operation in whole.operations for output in operation.outputs}
        for name in self.inputs:
            function.inputs.add(name=name).type.CopyFrom(types[name])
        block = function.block_specializations[source.opset]
        block.CopyFrom(type(block)(outputs=self.outputs))
        # A dictionary for its order: each operation once, where it is first needed.
        positions: dict[int, None] = {}
        for operation in self.operations:
            positions |= dict.fromkeys(constant.position for _, constant in self.graph.constants_behind(operation))
            positions[operation.position] = None
        block.operations.extend(whole.operations[position] for position in positions)

    def _describe(self, description: Any, known: dict[str, TensorRecord]) -> None:
        """Features of the model: the component's own as they were, the ones handed over by name and type."""
        described = self.package.model.description
        originals = {feature.name: feature for feature in (*described.input, *described.output)}
        for names, features in ((self.inputs, description.input), (self.outputs, description.output)):
            for name in names:
                feature = features.add(name=name)
                if name in originals:
                    feature.CopyFrom(originals[name])
                else:
                    array = feature.type.multiArrayType
                    type_ = self.graph.types[name]
                    array.shape.extend(type_.sizes)
                    array.dataType = getattr(type(array), FEATURES[type_.data_type].name)
                    verb = (
                        "Handed over to a later chunk" if names is self.outputs else "Handed over by an earlier chunk"
                    )
                    feature.shortDescription = f"{verb}."
                    known.setdefault(name, feature_tensor(feature))
