"""The blocks of a program: what each computes, stores and breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfmobile.inspect.operations.op_table import block_costs, op_table, weights_of

if TYPE_CHECKING:
    from sfmobile.inspect.lint.linter import Finding
    from sfmobile.inspect.lint.targets import LintTarget


@dataclass(frozen=True)
class BlockInspection:
    """One block of a program: operations, arithmetic, weights, activations, findings without an exception."""

    block: str
    operations: int
    macs: int
    flops: int
    elementwise: int
    weights: int
    weight_bytes: int
    bits_per_weight: float | None
    activation_bytes: int
    findings: int


def inspect_blocks(target: LintTarget, findings: Sequence[Finding]) -> tuple[BlockInspection, ...]:
    """The blocks of a program in running order, with those of `findings` that are in them."""
    weights: dict[str, list[float]] = {}
    for block, weight in weights_of(target.costed):
        sums = weights.setdefault(block, [0, 0])
        sums[0] += weight.values
        sums[1] += weight.bytes
    rows = []
    for cost in block_costs(op_table(target.costed)):
        values, stored = weights.get(cost.block, [0, 0])
        own = [one for one in findings if one.package == target.label and one.block == cost.block]
        rows.append(
            BlockInspection(
                block=cost.block,
                operations=cost.operations,
                macs=cost.macs,
                flops=cost.flops,
                elementwise=cost.elementwise,
                weights=int(values),
                weight_bytes=int(stored),
                bits_per_weight=stored * 8 / values if values else None,
                activation_bytes=cost.activation_bytes,
                findings=sum(one.exception is None for one in own),
            )
        )
    return tuple(rows)
