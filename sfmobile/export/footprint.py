"""What a bundle takes of a phone: bytes on disk, and an estimate of its memory at the worst moment.

Weights: on the Neural Engine palettized weights stay compressed from iOS 17 on and are decompressed block by block;
packages for iOS 16, and the GPU and the CPU on any system, hold them as fp16. Activations: the most bytes of values
that are alive at once when operations run in the order they are written in, nothing fused. Both are estimates: where
and how often Core ML keeps copies isn't documented. Memory the system holds for the Neural Engine isn't the app's own,
but on a phone that runs out of it the app is ended all the same, so all of it counts here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.files import StrictModel, read_model
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import read_program

LIMITS_FILE = Path(__file__).with_name("memory_limits.json")


class MemoryLimit(StrictModel):
    """What iOS lets one app have on phones of `memory_gb`: by default, and with the entitlement
    com.apple.developer.kernel.increased-memory-limit. Figures measured by others, see the sources."""

    memory_gb: float = Field(gt=0)
    measured_on: str
    default_bytes: int = Field(gt=0)
    increased_bytes: int = Field(gt=0)
    sources: tuple[str, ...] = Field(min_length=1)


class MemoryLimits(StrictModel):
    """All limits, and what an app holds beside the models (`base_bytes`)."""

    version: Literal[1]
    sources: dict[str, str]
    base_bytes: int = Field(ge=0)
    base_source: str
    limits: tuple[MemoryLimit, ...]

    def of(self, memory_gb: float) -> MemoryLimit:
        """The limit of phones with so much memory; of the next smaller class where none was measured."""
        below = [limit for limit in self.limits if limit.memory_gb <= memory_gb]
        return max(below, key=lambda limit: limit.memory_gb) if below else self.limits[0]


@cache
def memory_limits() -> MemoryLimits:
    """The limits shipped with sfmobile."""
    return read_model(LIMITS_FILE, MemoryLimits, "the memory limits of sfmobile", "install sfmobile again")


@dataclass(frozen=True)
class ComponentFootprint:
    """Bytes of one component. disk: its files. compressed, decompressed: its weights in memory as they are stored, and
    as fp16. activations: values alive at once. per_step: whether it runs in the loop, beside all others that do.
    chunks: of one in chunks, their weights in both ways; `activations` counts what waits for later ones too."""

    name: ComponentName
    disk: int
    compressed: int
    decompressed: int
    activations: int
    per_step: bool = False
    chunks: tuple[tuple[int, int], ...] = ()

    def memory(self, keeps_compressed: bool) -> int:
        """Weights and activations while it runs."""
        return self.weights(keeps_compressed) + self.activations

    def weights(self, keeps_compressed: bool) -> int:
        """Weights alone."""
        return self.compressed if keeps_compressed else self.decompressed

    def largest_package(self, keeps_compressed: bool) -> int:
        """Weights of its largest chunk, or of the whole."""
        whole = (self.compressed, self.decompressed)
        return max(chunk[0 if keeps_compressed else 1] for chunk in self.chunks or (whole,))


@dataclass(frozen=True)
class Footprint:
    """A bundle's components, and what an app holds beside them."""

    components: tuple[ComponentFootprint, ...]
    base: int
    target: str

    @property
    def neural_engine_compressed(self) -> bool:
        """Whether weights stay compressed on the Neural Engine."""
        return self.target != "ios16"

    def all_loaded(self, keeps_compressed: bool | None = None) -> int:
        """Peak with every component loaded from start to end. None: on the Neural Engine."""
        compressed = self.neural_engine_compressed if keeps_compressed is None else keeps_compressed
        weights = sum(part.weights(compressed) for part in self.components)
        return self.base + weights + max((part.activations for part in self.components), default=0)

    def one_at_a_time(self, keeps_compressed: bool | None = None) -> int:
        """Peak with each component freed before the next is loaded, those of a step together. None: on the Neural
        Engine."""
        compressed = self.neural_engine_compressed if keeps_compressed is None else keeps_compressed
        a_step = [part for part in self.components if part.per_step]
        weights = sum(part.weights(compressed) for part in a_step)
        step = weights + max((part.activations for part in a_step), default=0)
        return self.base + max((step, *(part.memory(compressed) for part in self.components)))

    def package_at_a_time(self, keeps_compressed: bool | None = None) -> int:
        """Peak with one package in memory, of a component in chunks one chunk: in every step each is loaded again.
        None: on the Neural Engine."""
        compressed = self.neural_engine_compressed if keeps_compressed is None else keeps_compressed
        return self.base + max(part.largest_package(compressed) + part.activations for part in self.components)


def bundle_footprint(bundle: Bundle) -> Footprint:
    """The footprint of a bundle of Core ML packages, of the functions it runs by default."""
    parts = [component_footprint(bundle.root, name, record) for name, record in bundle.manifest.components.items()]
    return Footprint(tuple(parts), memory_limits().base_bytes, bundle.manifest.target)


def component_footprint(root: Path, name: ComponentName, record: ComponentRecord) -> ComponentFootprint:
    """The footprint of one component below `root`. Chunks are run one by one."""
    packages = [chunk.package for chunk in record.chunks] or [record.package]
    weights: list[tuple[int, int]] = []
    activations = 0
    for place, path in enumerate(packages):
        package = Package(root / path)
        # Chunks have one function, whatever the component's record says.
        function = record.function if record.function in package.functions else None
        graph = Graph(read_program(package, function))
        weights.append(weight_bytes(graph))
        activations = max(activations, activation_bytes(graph) + _carried_bytes(record, place))
    return ComponentFootprint(
        name,
        record.bytes,
        compressed=sum(stored for stored, _ in weights),
        decompressed=sum(dense for _, dense in weights),
        activations=activations,
        per_step=record.runs == "per_step",
        chunks=tuple(weights) if record.chunks else (),
    )


def _carried_bytes(record: ComponentRecord, place: int) -> int:
    """Bytes of what earlier chunks hand over to later ones, past the chunk at `place`."""
    if not record.chunks:
        return 0
    own = {tensor.name for tensor in record.inputs} | {tensor.name for tensor in record.chunks[place].inputs}
    made = {tensor.name: tensor for chunk in record.chunks[:place] for tensor in chunk.outputs}
    wanted = {tensor.name for chunk in record.chunks[place + 1 :] for tensor in chunk.inputs} - own
    return sum(2 * math.prod(tensor.shape) for name, tensor in made.items() if name in wanted)


def weight_bytes(graph: Graph) -> tuple[int, int]:
    """Bytes of a program's weights as they are stored, and decompressed."""
    stored: dict[int, int] = {}
    dense: dict[str, int] = {}
    for operation in graph.program.operations:
        for _, constant in graph.constants_behind(operation):
            stored[constant.position] = constant.file_bytes
        for name in operation.reads():
            read = graph.program.constants.get(name)
            if read is not None:
                dense[name] = read.type.bytes if read.compressed else read.file_bytes
    return sum(stored.values()), sum(dense.values())


def activation_bytes(graph: Graph) -> int:
    """The most bytes of inputs and results that are alive at once, operations in the order they are written in."""
    alive = most = sum(type_.bytes for type_ in graph.program.inputs.values())
    for operation, ending in zip(graph.program.operations, graph.ending, strict=True):
        alive += sum(type_.bytes for _, type_ in operation.outputs)
        most = max(most, alive)
        alive -= sum(graph.types[name].bytes for name in ending)
    return most
