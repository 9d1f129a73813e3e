"""What an inspection shows people: sizes, inputs and outputs, operations, blocks, findings, times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sfmobile.inspect.lint.linter import groups
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.tables import Table, in_bytes, in_milliseconds

if TYPE_CHECKING:
    from sfmobile.inspect.block import BlockInspection
    from sfmobile.inspect.estimate.times import ComponentTime, DeviceTime
    from sfmobile.inspect.lint.linter import Finding, FindingGroup
    from sfmobile.inspect.operations.package import PackageInspection, TensorInspection

MOST_FREQUENT = 20
MOST_TIMED = 12
MOST_BLOCKS = 3


def sizes_table(title: str, packages: Mapping[str, PackageInspection]) -> Table:
    """One row a package, and their sum."""
    rows = [
        (
            name,
            package.format + (f" {package.opset}" if package.opset else ""),
            str(sum(package.operations.values())),
            f"{package.weights:,}",
            f"{package.compressed_weights / package.weights:.0%}" if package.weights else "-",
            in_bytes(package.bytes),
            "-" if package.bits_per_weight is None else f"{package.bits_per_weight:.2f}",
        )
        for name, package in packages.items()
    ]
    if len(packages) > 1:
        weights = sum(package.weights for package in packages.values())
        stored = sum(package.weight_bytes for package in packages.values())
        total = in_bytes(sum(package.bytes for package in packages.values()))
        rows.append(("all", "", "", f"{weights:,}", "", total, f"{stored * 8 / weights:.2f}" if weights else "-"))
    columns = ("package", "format", "operations", "weights", "compressed", "bytes", "bits/weight")
    return Table(title, columns, tuple(rows), text_columns=(0, 1))


def tensors_table(name: str, package: PackageInspection) -> Table:
    """Inputs and outputs."""

    def row(direction: str, tensor: TensorInspection) -> tuple[str, ...]:
        shape = " x ".join("?" if size is None else str(size) for size in tensor.shape)
        said = [shape, *([tensor.allowed] if tensor.allowed else []), *(["optional"] if tensor.optional else [])]
        kind = f"picture {tensor.picture}" if tensor.picture else tensor.dtype
        return direction, tensor.name, kind, ", ".join(said)

    directions = (("in", package.inputs), ("state", package.states), ("out", package.outputs))
    rows = [row(direction, tensor) for direction, tensors in directions for tensor in tensors]
    columns = ("", "name", "type", "shape")
    return Table(f"{name}: inputs and outputs", columns, tuple(rows), text_columns=(0, 1, 2, 3))


def operations_table(name: str, package: PackageInspection) -> Table:
    """The most frequent operations."""
    shown = list(package.operations.items())[:MOST_FREQUENT]
    rest = len(package.operations) - len(shown)
    return Table(
        f"{name}: operations",
        ("operation", "count"),
        tuple((kind, str(count)) for kind, count in shown),
        caption=f"and {rest} kinds more, see --json" if rest > 0 else None,
    )


def blocks_table(label: str, blocks: Sequence[BlockInspection]) -> Table:
    """The blocks of a program: arithmetic, weights, activations, findings."""
    total = sum(block.macs for block in blocks)
    return Table(
        f"{label}: blocks",
        ("block", "operations", "GMAC", "of all", "weights", "stored", "bits/weight", "activations", "findings"),
        tuple(
            (
                block.block,
                str(block.operations),
                f"{block.macs / 1e9:.3f}",
                f"{block.macs / total:.1%}" if total else "-",
                f"{block.weights:,}",
                in_bytes(block.weight_bytes),
                "-" if block.bits_per_weight is None else f"{block.bits_per_weight:.2f}",
                in_bytes(block.activation_bytes),
                str(block.findings or "-"),
            )
            for block in blocks
        ),
        caption=f"{total / 1e9:.3f} GMAC, {2 * total / 1e9:.3f} GFLOP in all; activations: read and written by "
        "convolutions and products, rows padded to 64 bytes.",
    )


def findings_verdict(findings: Sequence[Finding]) -> str:
    """How many findings are open, by severity, and how many are accepted: one sentence."""
    still_open = [one for one in findings if one.exception is None]
    excused = len(findings) - len(still_open)
    counts = Counter(one.severity for one in still_open)
    named = [
        f"{counts[severity]} of severity {severity}" for severity in ("error", "warning", "note") if counts[severity]
    ]
    rules = ", ".join(dict.fromkeys(one.rule for one in still_open))
    told = f"{', '.join(named)} ({rules})" if named else "no findings"
    return f"Neural Engine lint: {told}{f', {excused} accepted' if excused else ''}."


def time_verdict(time: DeviceTime) -> str:
    """A picture's time against the budget: one sentence."""
    within = "within" if time.within_budget else "beyond"
    return (
        f"Time on {time.device_name}, {time.label}: {in_milliseconds(time.picture_ms)} a picture, {within} the "
        f"budget of {time.budget_ms / 1e3:g} s."
    )


def findings_parts(findings: Sequence[Finding], accepted: bool = True) -> Iterator[Table | str]:
    """Open findings with their remedies, then, if `accepted` ones are wanted, those with their reasons."""
    found = groups(findings)
    still_open = [group for group in found if group.exception is None]
    excused = [group for group in found if group.exception is not None]
    if not still_open:
        if accepted:
            yield "Neural Engine lint: no findings" + (" beyond the exceptions below." if excused else ".")
    else:
        yield Table(
            "Neural Engine lint",
            ("severity", "rule", "package", "count", "where", "first"),
            tuple(map(_finding_row, still_open)),
            text_columns=(0, 1, 2, 4, 5),
        )
        book = rule_book()
        rules = dict.fromkeys(group.rule for group in still_open)
        yield "\n".join(f"  {identifier}: {book.rule(identifier).remedy}" for identifier in rules)
    if accepted and excused:
        yield Table(
            "Exceptions",
            ("severity", "rule", "package", "count", "reason"),
            tuple(
                (group.severity, group.rule, group.package, str(group.count), group.exception or "")
                for group in excused
            ),
            text_columns=(0, 1, 2, 4),
        )


def _finding_row(group: FindingGroup) -> tuple[str, ...]:
    where = ", ".join(group.blocks[:MOST_BLOCKS])
    if len(group.blocks) > MOST_BLOCKS:
        where += f" and {len(group.blocks) - MOST_BLOCKS} more"
    return group.severity, group.rule, group.package, str(group.count), where, group.example.message


def time_tables(time: DeviceTime) -> Iterator[Table]:
    """The components against the budget, and the blocks that take longest."""
    budget = time.budget_ms
    rows: list[tuple[str, ...]] = [
        (
            one.component,
            str(one.calls),
            in_milliseconds(one.call_ms),
            in_milliseconds(one.picture_ms),
            f"{one.picture_ms / budget:.0%}",
            one.basis,
            ", ".join(f"{count} {kind}" for kind, count in one.off_engine.items()) or "-",
        )
        for one in time.components
    ]
    total = in_milliseconds(time.picture_ms)
    rows.append(("all", "", "", total, f"{time.picture_ms / budget:.0%}", time.label, ""))
    verdict = "within" if time.within_budget else "beyond"
    sources = "; ".join(dict.fromkeys(f"{one.basis}: {one.source}" for one in time.components))
    yield Table(
        f"Time on {time.device_name} ({time.chip}), {time.label}",
        ("component", "calls", "a call", "a picture", "of budget", "basis", "planned off the Neural Engine"),
        tuple(rows),
        text_columns=(0, 5, 6),
        caption=f"{total} is {verdict} the budget of {budget / 1e3:g} s. {sources}. "
        f"Rate of the chip: {time.rate_basis}.",
    )
    yield from map(_block_times_table, time.components)


def _block_times_table(component: ComponentTime) -> Table:
    """The blocks of a component that take longest."""
    longest = sorted(component.blocks, key=lambda block: -block.milliseconds)
    shown, rest = longest[:MOST_TIMED], longest[MOST_TIMED:]
    rows = [
        (
            block.block,
            in_milliseconds(block.milliseconds),
            f"{block.share:.1%}",
            f"{block.arithmetic:.0%}",
            f"{block.memory:.0%}",
            f"{block.cpu:.0%}",
        )
        for block in shown
    ]
    if rest:
        spent = sum(block.milliseconds for block in rest)
        share = sum(block.share for block in rest)
        rows.append((f"{len(rest)} more", in_milliseconds(spent), f"{share:.1%}", "", "", ""))
    return Table(
        f"{component.component}: one call by block, division estimated",
        ("block", "time", "of call", "bound by arithmetic", "by memory", "on CPU"),
        tuple(rows),
    )
