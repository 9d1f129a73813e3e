"""Checks of what values look like: rank, length, layout, padding, size."""

from __future__ import annotations

from collections.abc import Iterator

from sfmobile.inspect.lint.rule import Rule
from sfmobile.inspect.lint.subject import Found, Subject, checks
from sfmobile.inspect.operations.flops import DENSE, VIEWS
from sfmobile.inspect.operations.op_table import padded_bytes


@checks("rank-above-5")
def rank_above_5(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Values of more than five axes."""
    limit = rule.limits["rank"]
    for operation, name, type_ in subject.floats():
        if len(type_.shape) > limit:
            yield Found(operation, f"'{name}' is {type_}: {len(type_.shape)} axes, at most {limit:g}")


@checks("large-dimension")
def large_dimension(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Axes beyond the limit."""
    limit = rule.limits["dimension"]
    for operation, name, type_ in subject.floats():
        longest = max(type_.sizes, default=0)
        if longest > limit:
            yield Found(operation, f"'{name}' is {type_}: an axis of {longest}, at most {limit:g}")


@checks("dynamic-shape")
def dynamic_shape(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Unknown dimensions, of inputs and of results."""
    for name, type_ in subject.program.inputs.items():
        if None in type_.shape:
            yield Found(None, f"input '{name}' is {type_}")
    for operation in subject.program.operations:
        for name, type_ in operation.outputs:
            if None in type_.shape:
                yield Found(operation, f"'{name}' is {type_}")


@checks("channels-last-layout")
def channels_last_layout(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Projections by `linear` or by a product with a weight, and normalisation over the last axis."""
    graph = subject.graph
    for operation in subject.program.operations:
        x = graph.operand_type(operation, "x")
        if x is None or len(x.shape) < 2 or x.elements == x.shape[-1]:
            continue
        if operation.kind == "linear":
            yield Found(operation, f"linear on {x}, channels last", x.shape[-1])
        elif operation.kind == "matmul" and graph.constant(operation, "y") is not None:
            yield Found(operation, f"product of {x} with a weight, channels last", x.shape[-1])
        elif operation.kind == "layer_norm":
            axes = graph.integers(operation, "axes") or ()
            if -1 in axes or len(x.shape) - 1 in axes:
                yield Found(operation, f"layer_norm over the last axis of {x}", x.shape[-1])


@checks("last-axis-padding")
def last_axis_padding(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Results whose rows are padded at a cost; views share their source's rows and aren't counted again."""
    for operation, name, type_ in subject.floats():
        width = type_.shape[-1] if type_.shape else None
        if width is None or width == 1 or operation.kind in VIEWS:
            continue
        held, padded = type_.bytes, padded_bytes(type_)
        if padded - held >= rule.limits["least_wasted_bytes"] and padded >= rule.limits["least_factor"] * held:
            yield Found(
                operation,
                f"'{name}' is {type_}: rows of {held // (type_.elements // width)} bytes, "
                f"{(padded - held) / 1e3:.0f} kB of padding on {held / 1e3:.0f} kB",
                width,
            )


@checks("singleton-last-axis")
def singleton_last_axis(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Results with a last axis of 1."""
    for operation, name, type_ in subject.floats():
        if len(type_.shape) > 1 and type_.shape[-1] == 1 and operation.kind not in VIEWS:
            wasted = padded_bytes(type_) - type_.bytes
            if wasted >= rule.limits["least_wasted_bytes"]:
                yield Found(operation, f"'{name}' is {type_}: {wasted / 1e3:.0f} kB of padding", 1)


@checks("large-operand")
def large_operand(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Activations beyond the on-chip memory that a dense operation reads."""
    graph = subject.graph
    for operation in subject.program.operations:
        if operation.kind in DENSE:
            for name in graph.activations(operation):
                type_ = graph.types[name]
                size = padded_bytes(type_)
                if size > rule.limits["bytes"]:
                    yield Found(operation, f"reads '{name}', {type_}, {size / 1e6:.1f} MB", type_.shape[-1])
