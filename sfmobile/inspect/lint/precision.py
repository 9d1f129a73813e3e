"""Checks of number formats and ranges: fp32 islands, integers, infinities, squares, recorded runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfmobile.inspect.lint.rule import Rule
from sfmobile.inspect.lint.subject import Found, Subject, checks
from sfmobile.mlpackage.types import INTEGER_TYPES, WIDE_FLOAT_TYPES

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Constant, Operation

ARITHMETIC = frozenset(
    {
        "add", "sub", "mul", "real_div", "floor_div", "mod", "pow", "abs", "maximum", "minimum", "square", "select",
        "greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "clip",
    }
)  # fmt: skip
MEANS = frozenset({"reduce_mean", "reduce_sum"})


def _is_wide(operation: Operation) -> bool:
    return any(type_.data_type in WIDE_FLOAT_TYPES for _, type_ in operation.outputs)


@checks("float32")
def float32(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Connected groups of operations that compute in 32 bits; casts at the border of the graph are another rule."""
    for island in _islands(subject):
        computing = [operation for operation in island if operation.kind != "cast"]
        if computing:
            kinds = ", ".join(dict.fromkeys(operation.kind for operation in computing[:6]))
            count = len(computing)
            first = computing[0]
            yield Found(first, f"{count} operation{'s' * (count > 1)} in float32 ({kinds}), from '{first.name}' on")


@checks("float32-border")
def float32_border(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Inputs and outputs in 32 bits."""
    for name, type_ in subject.program.inputs.items():
        if type_.data_type in WIDE_FLOAT_TYPES:
            yield Found(None, f"input '{name}' is {type_}")
    for name, type_ in subject.program.output_types().items():
        if type_.data_type in WIDE_FLOAT_TYPES:
            yield Found(subject.graph.makers.get(name), f"output '{name}' is {type_}")


def _islands(subject: Subject) -> list[list[Operation]]:
    """Groups of wide operations that pass values to each other, in running order."""
    group: dict[int, list[Operation]] = {}
    for operation in subject.program.operations:
        if not _is_wide(operation):
            continue
        merged = [operation]
        for name in subject.graph.activations(operation):
            maker = subject.graph.makers.get(name)
            if maker is not None and maker.position in group and group[maker.position] is not merged:
                merged = [*group[maker.position], *merged]
                for member in merged:
                    group[member.position] = merged
        for member in merged:
            group[member.position] = merged
    unique = {id(members): members for members in group.values()}
    return [sorted(members, key=lambda member: member.position) for members in unique.values()]


@checks("integer-arithmetic")
def integer_arithmetic(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Arithmetic and comparisons on integers."""
    graph = subject.graph
    for operation in subject.program.operations:
        if operation.kind in ARITHMETIC:
            types = [graph.types[name] for name in graph.activations(operation)]
            if any(type_.data_type in INTEGER_TYPES for type_ in types):
                yield Found(operation, f"{operation.kind} on {types[0]}")


@checks("infinite-constant")
def infinite_constant(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Constants that aren't finite; each is named at the first operation that reads it."""
    for operation, name, constant in _constants(subject):
        count = subject.extremes(name, constant).nonfinite
        if count:
            yield Found(operation, f"constant '{name}', {constant.type}, holds {count} infinite or NaN values")


@checks("out-of-range-constant")
def out_of_range_constant(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Finite constants whose magnitude leaves no room in float16."""
    limit = rule.limits["magnitude"]
    for operation, name, constant in _constants(subject):
        largest = subject.extremes(name, constant).magnitude
        if largest > limit:
            yield Found(operation, f"constant '{name}', {constant.type}, reaches {largest:.6g}, at most {limit:g}")


def _constants(subject: Subject) -> Iterator[tuple[Operation, str, Constant]]:
    seen: set[str] = set()
    for operation in subject.program.operations:
        for name, constant in subject.graph.weights(operation).items():
            if name not in seen:
                seen.add(name)
                yield operation, name, constant


@checks("normalisation-overflow")
def normalisation_overflow(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Squares that a mean is taken of. A recorded run says how far the squared values really go."""
    limit, headroom = rule.limits["magnitude"], rule.limits["headroom"]
    for operation in subject.program.operations:
        if not _squares_for_a_mean(subject, operation):
            continue
        source = subject.graph.activations(operation)[0]
        found = None if subject.magnitudes is None else subject.magnitudes.get(source)
        if found is None:
            yield Found(operation, f"squares '{source}', {subject.graph.types[source]}, of unknown range")
        elif found * headroom > limit:
            over = found > limit
            yield Found(
                operation,
                f"squares '{source}', which reaches {found:.4g} in the recorded run, at most {limit:g}",
                severity="error" if over else None,
            )


def _squares_for_a_mean(subject: Subject, operation: Operation) -> bool:
    if not any(type_.data_type == "fp16" for _, type_ in operation.outputs):
        return False
    if operation.kind in ("reduce_sum_square", "reduce_l2_norm"):
        return True
    x, y = subject.graph.operand(operation, "x"), subject.graph.operand(operation, "y")
    squares = operation.kind == "square" or (operation.kind == "mul" and isinstance(x, str) and x == y)
    squares = squares or (operation.kind == "pow" and subject.graph.number(y) == 2.0)
    return squares and any(reader.kind in MEANS for reader in subject.graph.readers_of(operation))


@checks("activation-overflow")
def activation_overflow(subject: Subject, rule: Rule) -> Iterator[Found]:
    """float16 results that the recorded run, evaluated in fp32, shows near or beyond float16's end."""
    if subject.magnitudes is None:
        return
    limit, headroom = rule.limits["magnitude"], rule.limits["headroom"]
    for operation, name, type_ in subject.floats():
        found = subject.magnitudes.get(name)
        if type_.data_type != "fp16" or found is None:
            continue
        # Masked scores are meant to be far below all others: only infinity harms them.
        masked = all(reader.kind == "softmax" for reader in subject.graph.readers_of(operation))
        room = 1.0 if masked and subject.graph.readers_of(operation) else headroom
        if found * room > limit:
            yield Found(
                operation,
                f"'{name}' reaches {found:.4g} in the recorded run; float16 ends at {limit:g}",
                severity=None if found > limit else "warning",
            )


@checks("late-attention-scale")
def late_attention_scale(subject: Subject, rule: Rule) -> Iterator[Found]:
    """A product of two activations that a constant scales on the way to a softmax."""
    graph = subject.graph
    for operation in subject.program.operations:
        if operation.kind not in ("mul", "real_div"):
            continue
        scale = graph.constant(operation, "y") or graph.constant(operation, "x")
        if scale is None or scale.type.elements != 1 or not scale.type.is_float:
            continue
        source = graph.maker_of(operation) or graph.maker_of(operation, "y")
        is_product = source is not None and graph.multiplies_activations(source)
        if is_product and any(_leads_to_softmax(subject, reader) for reader in graph.readers_of(operation)):
            yield Found(operation, f"scores {operation.outputs[0][1]} are scaled behind their product")


def _leads_to_softmax(subject: Subject, operation: Operation) -> bool:
    if operation.kind == "softmax":
        return True
    return operation.kind == "add" and any(reader.kind == "softmax" for reader in subject.graph.readers_of(operation))
