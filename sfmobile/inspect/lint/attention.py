"""Checks of attention: all heads at once, and long sequences at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sfmobile.inspect.lint.rule import Rule
from sfmobile.inspect.lint.subject import Found, Subject, checks
from sfmobile.inspect.operations.op_table import padded_bytes

if TYPE_CHECKING:
    from sfmobile.mlpackage.graph import Graph
    from sfmobile.mlpackage.program import Operation
    from sfmobile.mlpackage.types import TensorType


def _scores(graph: Graph, softmax: Operation) -> Operation | None:
    """The product of two activations whose result (scaled, masked) the softmax takes."""
    operation: Operation | None = softmax
    for _ in range(4):
        if operation is None:
            return None
        before = [graph.makers[name] for name in graph.activations(operation) if name in graph.makers]
        products = [one for one in before if graph.multiplies_activations(one)]
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
        scores = _scores(subject.graph, operation)
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
        type_ = _long_scores(subject.graph, operation, rule)
        if type_ is not None:
            size, queries = padded_bytes(type_), _queries(subject.graph, operation)
            yield Found(
                operation, f"scores {type_}, {size / 1e6:.1f} MB, of {queries} queries at once", type_.shape[-1]
            )


def long_products(graph: Graph, rule: Rule) -> frozenset[int]:
    """Positions of the two products of each attention in the split form that `long_queries` finds: what makes the
    scores, what reads them. Attention over all heads at once is another matter, of another rule."""
    found: set[int] = set()
    for operation in graph.program.operations:
        if _long_scores(graph, operation, rule) is None or _keys_last(graph, operation):
            continue
        made = _scores(graph, operation)
        found |= {operation.position} if made is None else {operation.position, made.position}
        for name in operation.makes():
            found |= {one.position for one in graph.readers.get(name, ()) if graph.multiplies_activations(one)}
    return frozenset(found)


def _long_scores(graph: Graph, operation: Operation, rule: Rule) -> TensorType | None:
    """The type of the scores of which `operation` is the softmax, if they are of too many queries at once."""
    if operation.kind != "softmax" or _scores(graph, operation) is None:
        return None
    type_ = operation.outputs[0][1]
    long = _queries(graph, operation) > rule.limits["queries"] and padded_bytes(type_) > rule.limits["bytes"]
    return type_ if long else None


def _queries(graph: Graph, softmax: Operation) -> int:
    """How many: along the last axis, or the last but one if the keys are there."""
    return softmax.outputs[0][1].sizes[-2 if _keys_last(graph, softmax) else -1]


def _keys_last(graph: Graph, softmax: Operation) -> bool:
    """Whether keys, which run along the softmax's axis, are on the last one."""
    rank = len(softmax.outputs[0][1].shape)
    return (graph.integers(softmax, "axis") or (-1,))[0] % rank == rank - 1
