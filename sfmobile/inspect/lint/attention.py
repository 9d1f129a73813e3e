"""Checks of attention: all heads at once, and long sequences at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfmobile.inspect.lint.rule import Rule
from sfmobile.inspect.lint.subject import Found, Subject, checks
from sfmobile.inspect.operations.op_table import padded_bytes

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Operation


def _scores(subject: Subject, softmax: Operation) -> Operation | None:
    """The product of two activations whose result (scaled, masked) the softmax takes."""
    operation: Operation | None = softmax
    for _ in range(4):
        if operation is None:
            return None
        makers = subject.graph.makers
        before = [makers[name] for name in subject.graph.activations(operation) if name in makers]
        products = [one for one in before if subject.graph.multiplies_activations(one)]
        if products:
            return products[0]
        passed = [one for one in before if one.kind in ("add", "mul", "real_div", "cast", "select", "reshape")]
        operation = passed[0] if passed else None
    return None


@checks("whole-attention")
def whole_attention(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Fused attention operations, and softmax over the last axis of scores of several heads."""
    for operation in subject.program.operations:
        if operation.kind == "scaled_dot_product_attention":
            yield Found(operation, f"scaled_dot_product_attention giving {operation.outputs[0][1]}")
        if operation.kind != "softmax":
            continue
        scores = _scores(subject, operation)
        shape = operation.outputs[0][1].shape
        axis = (subject.graph.integers(operation, "axis") or (-1,))[0] % max(len(shape), 1)
        if scores is None or axis != len(shape) - 1:
            continue
        products = math.prod(scores.outputs[0][1].sizes[:-2])
        batch = next((type_.sizes[0] for type_ in subject.program.inputs.values() if len(type_.shape) == 4), 1)
        if products > batch:
            yield Found(
                operation, f"{products} products of scores {scores.outputs[0][1]} at once, softmax over keys last"
            )


@checks("long-queries")
def long_queries(subject: Subject, rule: Rule) -> Iterator[Found]:
    """Scores of more queries than a chunk that don't fit the on-chip memory."""
    for operation in subject.program.operations:
        if operation.kind != "softmax" or _scores(subject, operation) is None:
            continue
        type_ = operation.outputs[0][1]
        rank = len(type_.shape)
        axis = (subject.graph.integers(operation, "axis") or (-1,))[0] % rank
        # Keys run along the softmax's axis, queries along the last one, or the last but one if keys are there.
        queries = type_.sizes[-2 if axis == rank - 1 else -1]
        size = padded_bytes(type_)
        if queries > rule.limits["queries"] and size > rule.limits["bytes"]:
            yield Found(
                operation, f"scores {type_}, {size / 1e6:.1f} MB, of {queries} queries at once", type_.shape[-1]
            )
