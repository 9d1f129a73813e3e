"""The cost of every operation of a program, read off the program: arithmetic, weight bytes, activation bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfmobile.inspect.operations.blocks import assign_blocks
from sfmobile.inspect.operations.flops import DENSE, elementwise, multiply_accumulates
from sfmobile.mlpackage.constexpr import palette_of

if TYPE_CHECKING:
    from sfmobile.mlpackage.graph import Graph
    from sfmobile.mlpackage.program import Constant, Operation
    from sfmobile.mlpackage.types import TensorType

# The Neural Engine stores the last axis in rows of this many bytes (Apple, "Deploying Transformers on the Apple Neural
# Engine", 2022).
ROW_BYTES = 64


@dataclass(frozen=True)
class Weight:
    """A stored weight: how many values, in how many bytes. `bits`: of one index or value, tables aside."""

    name: str
    shape: tuple[int, ...]
    data_type: str
    bits: float
    bytes: int
    compressed: bool

    @property
    def values(self) -> int:
        """How many values the dense weight has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class OpCost:
    """One operation.

    macs: multiply-accumulates of the matrix engines; elementwise: values computed otherwise. weight_bytes: as stored.
    read_bytes, written_bytes: activations, each operand once, with the last axis padded to rows of 64 bytes.
    """

    position: int
    kind: str
    name: str
    block: str
    macs: int
    elementwise: int
    weight_bytes: int
    read_bytes: int
    written_bytes: int

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs


def padded_bytes(type_: TensorType) -> int:
    """Bytes of an activation on the Neural Engine: the last axis padded to a multiple of `ROW_BYTES`."""
    if not type_.shape:
        return type_.bytes
    last = type_.sizes[-1]
    rows = type_.elements // max(last, 1)
    width = type_.bytes // max(type_.elements, 1)
    return rows * -(-last * width // ROW_BYTES) * ROW_BYTES


def stored_weight(name: str, constant: Constant) -> Weight:
    """How a constant is stored."""
    type_ = constant.type
    values = max(type_.elements, 1)
    if not constant.compressed:
        return Weight(name, type_.sizes, type_.data_type, 8 * type_.bytes / values, type_.bytes, False)
    stored = {argument: type_ for argument, type_ in constant.stored.items() if argument != "shape"}
    total = sum(type_.bytes for type_ in stored.values())
    return Weight(name, type_.sizes, type_.data_type, _index_bits(stored, values), total, True)


def _index_bits(stored: dict[str, TensorType], values: int) -> float:
    """Bits of one index into the lookup table, or of one quantized value."""
    table = stored.get("lut")
    if table is not None:
        palette = palette_of(table)
        return palette.bits / palette.vector
    return 8 * max((type_.bytes for type_ in stored.values()), default=0) / values


def op_table(graph: Graph) -> list[OpCost]:
    """Cost of every operation in running order."""
    blocks = assign_blocks(graph)
    counted: set[str] = set()
    table: list[OpCost] = []
    for operation in graph.program.operations:
        weights = graph.weights(operation)
        # A weight that several operations read is stored, and fetched, once.
        new = {name: constant for name, constant in weights.items() if name not in counted}
        counted.update(new)
        read = [graph.types[name] for name in graph.activations(operation)]
        table.append(
            OpCost(
                position=operation.position,
                kind=operation.kind,
                name=operation.name,
                block=blocks[operation.position],
                macs=multiply_accumulates(graph, operation),
                elementwise=elementwise(operation),
                weight_bytes=_weight_bytes(operation, new),
                read_bytes=sum(padded_bytes(type_) for type_ in read if type_.is_float),
                written_bytes=sum(padded_bytes(type_) for _, type_ in operation.outputs if type_.is_float),
            )
        )
    return table


def _weight_bytes(operation: Operation, weights: dict[str, Constant]) -> int:
    """Bytes of the weights read. A lookup reads only its rows, not the table."""
    if operation.kind.startswith("gather"):
        return sum(type_.bytes for _, type_ in operation.outputs)
    return sum(stored_weight(name, constant).bytes for name, constant in weights.items())


def weights_of(graph: Graph) -> list[tuple[str, Weight]]:
    """Every weight that operations read, with the block that reads it, each once and in running order."""
    blocks = assign_blocks(graph)
    found: dict[str, tuple[str, Weight]] = {}
    for operation in graph.program.operations:
        for name, constant in graph.weights(operation).items():
            if name not in found:
                found[name] = (blocks[operation.position], stored_weight(name, constant))
    return list(found.values())


@dataclass(frozen=True)
class BlockCost:
    """Sums over the operations of one block. activation_bytes: everything its dense operations read and write."""

    block: str
    operations: int
    macs: int
    elementwise: int
    weight_bytes: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs


def block_costs(table: list[OpCost]) -> list[BlockCost]:
    """One row a block, in the order in which the blocks begin."""
    rows: dict[str, list[OpCost]] = {}
    for cost in table:
        rows.setdefault(cost.block, []).append(cost)
    return [
        BlockCost(
            block=block,
            operations=len(costs),
            macs=sum(cost.macs for cost in costs),
            elementwise=sum(cost.elementwise for cost in costs),
            weight_bytes=sum(cost.weight_bytes for cost in costs),
            activation_bytes=sum(cost.read_bytes + cost.written_bytes for cost in costs if cost.kind in DENSE),
        )
        for block, costs in rows.items()
    ]
