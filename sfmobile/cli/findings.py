"""What `inspect` shows of the linter: a table of blocks, the findings, and files for code hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sfmobile.cli import console

if TYPE_CHECKING:
    from sfmobile.inspect.lint.linter import Finding, FindingGroup
    from sfmobile.inspect.lint.targets import LintTarget

MOST_BLOCKS = 3


def block_rows(target: LintTarget, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """One row a block of a package: operations, arithmetic, weights, activations, findings without an exception."""
    from sfmobile.inspect.operations.op_table import block_costs, op_table, weights_of

    weights: dict[str, list[float]] = {}
    for block, weight in weights_of(target.subject.graph):
        sums = weights.setdefault(block, [0, 0])
        sums[0] += weight.values
        sums[1] += weight.bytes
    rows = []
    for cost in block_costs(op_table(target.subject.graph)):
        values, stored = weights.get(cost.block, [0, 0])
        rows.append(
            {
                "block": cost.block,
                "operations": cost.operations,
                "macs": cost.macs,
                "flops": cost.flops,
                "elementwise": cost.elementwise,
                "weights": int(values),
                "weight_bytes": int(stored),
                "bits_per_weight": stored * 8 / values if values else None,
                "activation_bytes": cost.activation_bytes,
                "findings": sum(
                    finding.block == cost.block and finding.exception is None
                    for finding in findings
                    if finding.package == target.label
                ),
            }
        )
    return rows


def print_blocks(label: str, rows: Sequence[dict[str, Any]]) -> None:
    """The table of blocks."""
    total = sum(row["macs"] for row in rows)
    console.print_table(
        f"{label}: blocks",
        ("block", "operations", "GMAC", "of all", "weights", "stored", "bits/weight", "activations", "findings"),
        [
            (
                row["block"],
                str(row["operations"]),
                f"{row['macs'] / 1e9:.3f}",
                f"{row['macs'] / total:.1%}" if total else "-",
                f"{row['weights']:,}",
                console.in_bytes(row["weight_bytes"]),
                "-" if row["bits_per_weight"] is None else f"{row['bits_per_weight']:.2f}",
                console.in_bytes(row["activation_bytes"]),
                str(row["findings"] or "-"),
            )
            for row in rows
        ],
        caption=f"{total / 1e9:.3f} GMAC, {2 * total / 1e9:.3f} GFLOP in all; activations: read and written by "
        "convolutions and products, rows padded to 64 bytes.",
    )


def print_findings(findings: Sequence[Finding]) -> None:
    """Open findings with their remedies, then accepted ones with their reasons."""
    from sfmobile.inspect.lint.linter import groups
    from sfmobile.inspect.lint.rule import rule_book

    found = groups(findings)
    still_open = [group for group in found if group.exception is None]
    accepted = [group for group in found if group.exception is not None]
    if not still_open:
        console.print_text("Neural Engine lint: no findings" + (" beyond the exceptions below." if accepted else "."))
    else:
        console.print_table(
            "Neural Engine lint",
            ("severity", "rule", "package", "count", "where", "first"),
            [_row(group) for group in still_open],
            text_columns=(0, 1, 2, 4, 5),
        )
        book = rule_book()
        for identifier in dict.fromkeys(group.rule for group in still_open):
            console.print_text(f"  {identifier}: {book.rule(identifier).remedy}")
        console.print_text("")
    if accepted:
        console.print_table(
            "Exceptions",
            ("severity", "rule", "package", "count", "reason"),
            [
                (group.severity, group.rule, group.package, str(group.count), group.exception or "")
                for group in accepted
            ],
            text_columns=(0, 1, 2, 4),
        )


def _row(group: FindingGroup) -> tuple[str, ...]:
    where = ", ".join(group.blocks[:MOST_BLOCKS])
    if len(group.blocks) > MOST_BLOCKS:
        where += f" and {len(group.blocks) - MOST_BLOCKS} more"
    return group.severity, group.rule, group.package, str(group.count), where, group.example.message
