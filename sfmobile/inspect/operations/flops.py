"""What an operation computes: multiply-accumulates of the matrix engines, and the rest.

`flops` counts what every published figure counts: two per multiply-accumulate of convolutions and matrix products,
and nothing else. Normalisation, activation and other elementwise work is counted apart, one per value of the result.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from sfmobile.errors import ArtifactError

if TYPE_CHECKING:
    from sfmobile.mlpackage.graph import Graph
    from sfmobile.mlpackage.program import Operation

# Operations of the matrix engines.
DENSE = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum", "scaled_dot_product_attention"})
# Those that only move or view values.
MOVING = frozenset(
    {
        "reshape", "reshape_like", "transpose", "split", "concat", "expand_dims", "squeeze", "slice_by_index",
        "slice_by_size", "identity", "stack", "tile", "pad", "flatten2d", "depth_to_space", "space_to_depth",
        "pixel_shuffle", "pixel_unshuffle", "reverse", "gather", "gather_nd", "gather_along_axis", "cast",
        "upsample_nearest_neighbor", "band_part", "sliding_windows",
    }
)  # fmt: skip
# Those that are views: the data stays where it is.
VIEWS = frozenset({"reshape", "reshape_like", "expand_dims", "squeeze", "identity", "flatten2d"})


def multiply_accumulates(graph: Graph, operation: Operation) -> int:
    """Multiply-accumulates of a dense operation; 0 for any other."""
    counter = {
        "conv": _conv,
        "conv_transpose": _conv_transpose,
        "linear": _linear,
        "matmul": _matmul,
        "einsum": _einsum,
        "scaled_dot_product_attention": _attention,
    }.get(operation.kind)
    return 0 if counter is None else counter(graph, operation)


def flops(graph: Graph, operation: Operation) -> int:
    """Two per multiply-accumulate."""
    return 2 * multiply_accumulates(graph, operation)


def elementwise(operation: Operation) -> int:
    """Values that an operation computes one by one; 0 for dense ones and for those that only move values."""
    if operation.kind in DENSE or operation.kind in MOVING:
        return 0
    return sum(type_.elements for _, type_ in operation.outputs if type_.is_float)


def _shape(graph: Graph, operation: Operation, argument: str) -> tuple[int, ...]:
    type_ = graph.operand_type(operation, argument)
    if type_ is None:
        raise ArtifactError(
            f"{graph.program.package.name}: {operation} lacks its operand '{argument}'; export it again."
        )
    return type_.sizes


def _conv(graph: Graph, operation: Operation) -> int:
    """weight (K, C / groups, *kernel): every output value takes C / groups * kernel of them."""
    weight = _shape(graph, operation, "weight")
    return operation.outputs[0][1].elements * math.prod(weight[1:])


def _conv_transpose(graph: Graph, operation: Operation) -> int:
    """weight (C, K / groups, *kernel): every input value is spread over K / groups * kernel."""
    return math.prod(_shape(graph, operation, "x")) * math.prod(_shape(graph, operation, "weight")[1:])


def _linear(graph: Graph, operation: Operation) -> int:
    return operation.outputs[0][1].elements * _shape(graph, operation, "weight")[-1]


def _matmul(graph: Graph, operation: Operation) -> int:
    x = _shape(graph, operation, "x")
    transposed = graph.integers(operation, "transpose_x") or (0,)
    inner = x[-2] if transposed[0] and len(x) > 1 else x[-1]
    return operation.outputs[0][1].elements * inner


def _einsum(graph: Graph, operation: Operation) -> int:
    """The product over every letter of the equation."""
    equation = str(graph.attribute(operation, "equation") or "")
    terms = re.split(r"->|,", equation.replace(" ", ""))
    sizes: dict[str, int] = {}
    for term, item in zip(terms, operation.inputs.get("values", ()), strict=False):
        shape = graph.type_of(item).sizes
        if len(term) != len(shape):
            raise ArtifactError(
                f"{graph.program.package.name}: {operation} has the equation '{equation}' for an operand of shape "
                f"{shape}; export it again."
            )
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values())


def _attention(graph: Graph, operation: Operation) -> int:
    """query (..., Q, D), key (..., K, D), value (..., K, E): Q * K * (D + E) for each of the leading axes."""
    query, key = _shape(graph, operation, "query"), _shape(graph, operation, "key")
    value = _shape(graph, operation, "value")
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
