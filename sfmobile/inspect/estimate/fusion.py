"""Groups of operations that run as one: a dense operation and what is computed on its result before it leaves the chip.

A roofline for every operation alone overestimates: it charges memory traffic for values that never leave the Neural
Engine. Here every convolution or matrix product opens a segment, and normalisation, activation, softmax, reshapes and
sums join the segment that computes the last of what they read. A segment pays for the weights and for what it reads
from and leaves to other segments, and of that only for values too large for the on-chip memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sfmobile.inspect.operations.flops import DENSE
from sfmobile.inspect.operations.op_table import OpCost, op_table, padded_bytes
from sfmobile.mlpackage.types import WIDE_FLOAT_TYPES

if TYPE_CHECKING:
    from sfmobile.mlpackage.graph import Graph
    from sfmobile.mlpackage.program import Operation

# Operands beyond this stream from DRAM (arXiv 2606.22283, measured on M1, M2 and M5).
RESIDENT_BYTES = 2 << 20

DenseKind = Literal["spatial", "pointwise", "attention"]
DENSE_KINDS: tuple[DenseKind, ...] = ("spatial", "pointwise", "attention")


@dataclass
class Segment:
    """Work between two visits to memory.

    macs: by kind of dense operation: "spatial" convolutions with kernels beyond 1x1, "pointwise" ones and other
    products with a weight, "attention" products of two activations. streamed_bytes: of values beyond `RESIDENT_BYTES`
    read from or left to other segments; resident_bytes: of the smaller ones. fallback: runs on the CPU. long: makes or
    reads attention scores of more queries at once than are known to suit the Neural Engine.
    """

    block: str
    fallback: bool = False
    long: bool = False
    positions: list[int] = field(default_factory=list)
    macs: dict[DenseKind, int] = field(default_factory=dict)
    elementwise: int = 0
    weight_bytes: int = 0
    streamed_bytes: int = 0
    resident_bytes: int = 0

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * sum(self.macs.values())


def fuse(
    graph: Graph,
    cpu_kinds: frozenset[str],
    table: list[OpCost] | None = None,
    long: frozenset[int] = frozenset(),
) -> list[Segment]:
    """Segments in running order. Operations of `cpu_kinds` and those in fp32 run on the CPU, in segments apart.

    long: positions of operations whose segments are to be marked so.
    """
    costs = {cost.position: cost for cost in (op_table(graph) if table is None else table)}
    segments: list[Segment] = []
    member: dict[int, int] = {}
    for operation in graph.program.operations:
        fallback = runs_on_cpu(operation, cpu_kinds)
        before = [member[graph.makers[name].position] for name in _computed(graph, operation)]
        joins = max(before, default=None)
        if operation.kind in DENSE or joins is None or segments[joins].fallback != fallback:
            segments.append(Segment(costs[operation.position].block, fallback))
            joins = len(segments) - 1
        member[operation.position] = joins
        segments[joins].long |= operation.position in long
        _add(graph, segments[joins], operation, costs[operation.position])
    operations = {operation.position: operation for operation in graph.program.operations}
    for index, segment in enumerate(segments):
        _add_traffic(graph, segment, index, member, operations)
    return segments


def runs_on_cpu(operation: Operation, cpu_kinds: frozenset[str]) -> bool:
    """Whether the Neural Engine can't run an operation: of a kind it lacks, or computing in fp32."""
    if operation.kind in cpu_kinds:
        return True
    wide = any(type_.data_type in WIDE_FLOAT_TYPES for _, type_ in operation.outputs)
    return wide and operation.kind != "cast"


def _computed(graph: Graph, operation: Operation) -> list[str]:
    return [name for name in graph.activations(operation) if name in graph.makers]


def _add(graph: Graph, segment: Segment, operation: Operation, cost: OpCost) -> None:
    segment.positions.append(operation.position)
    segment.elementwise += cost.elementwise
    segment.weight_bytes += cost.weight_bytes
    if cost.macs:
        kind = dense_kind(graph, operation)
        segment.macs[kind] = segment.macs.get(kind, 0) + cost.macs


def dense_kind(graph: Graph, operation: Operation) -> DenseKind:
    """What kind of product a dense operation is."""
    if operation.kind in ("conv", "conv_transpose"):
        weight = graph.operand_type(operation, "weight")
        kernel = 1 if weight is None else math.prod(weight.sizes[2:])
        return "spatial" if kernel > 1 else "pointwise"
    return "attention" if graph.multiplies_activations(operation) else "pointwise"


def _add_traffic(
    graph: Graph, segment: Segment, index: int, member: dict[int, int], operations: dict[int, Operation]
) -> None:
    """Bytes that cross the border of the segment, each value once in each direction."""
    outputs = set(graph.program.outputs)
    crossing: set[str] = set()
    for position in segment.positions:
        operation = operations[position]
        for name in graph.activations(operation):
            maker = graph.makers.get(name)
            if maker is None or member[maker.position] != index:
                crossing.add(name)
        for name in operation.makes():
            read_elsewhere = any(member[reader.position] != index for reader in graph.readers.get(name, ()))
            if read_elsewhere or name in outputs:
                crossing.add(name)
    for name in crossing:
        if graph.types[name].is_float:
            size = padded_bytes(graph.types[name])
            if size > RESIDENT_BYTES:
                segment.streamed_bytes += size
            else:
                segment.resident_bytes += size
