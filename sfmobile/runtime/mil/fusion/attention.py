"""Attention as two matrix products around a softmax."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import Operand, Operation
from sfmobile.mlpackage.rewriting import literal
from sfmobile.runtime.mil.fusion.rounded import attend_rounded
from sfmobile.runtime.mil.ops.registry import op


@op("fused.attention", fresh=True)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float,
    query_columns: bool,
    key_columns: bool,
    value_columns: bool,
    columns: bool,
) -> Tensor:
    """softmax(scale query key^T + mask) value.

    query (*, Q, E), key (*, K, E), value (*, K, V), mask broadcast to (*, Q, K); returns (*, Q, V). With `_columns` an
    operand comes as (*, E, Q) and so on; with `columns` the result is (*, V, Q).
    """
    out = F.scaled_dot_product_attention(
        query.transpose(-1, -2) if query_columns else query,
        key.transpose(-1, -2) if key_columns else key,
        value.transpose(-1, -2) if value_columns else value,
        attn_mask=mask,
        scale=scale,
    )
    return out.transpose(-1, -2) if columns else out


@op("fused.rounded_attention", fresh=True)
def rounded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float,
    query_columns: bool,
    key_columns: bool,
    value_columns: bool,
    columns: bool,
) -> Tensor:
    """`fused.attention` with every operation's result but the last rounded to float16, as op by op."""
    out = attend_rounded(
        query.transpose(-1, -2) if query_columns else query,
        key.transpose(-1, -2) if key_columns else key,
        value.transpose(-1, -2) if value_columns else value,
        mask,
        scale,
    )
    return out.transpose(-1, -2) if columns else out


def fuse_attention(graph: Graph, operation: Operation) -> Operation | None:
    """Rooted at the second product, which is weights x values or, transposed, values x weights."""
    if operation.kind != "matmul":
        return None
    transposed = {name: bool(graph.attribute(operation, f"transpose_{name}", False)) for name in "xy"}
    value, value_columns, columns = graph.operand(operation, "y"), transposed["y"], False
    weights = graph.made_by(graph.operand(operation, "x"), "softmax")
    if weights is None or transposed["x"]:
        weights = graph.made_by(graph.operand(operation, "y"), "softmax")
        value, value_columns, columns = graph.operand(operation, "x"), not transposed["x"], True
        if weights is None or not transposed["y"]:
            return None
    shape = graph.shape(weights.outputs[0][0])
    if shape is None or graph.attribute(weights, "axis", -1) not in (-1, len(shape) - 1):
        return None
    found = _scores(graph, graph.operand(weights, "x"), shape)
    if found is None or value is None:
        return None
    product, scale, mask, between = found
    if not graph.one_type([operation, weights, product, *between]):
        return None
    query, key = graph.operand(product, "x"), graph.operand(product, "y")
    leading = [None if (whole := graph.shape(item)) is None else whole[:-2] for item in (query, key, value)]
    if query is None or key is None or leading != [shape[:-2]] * 3 or len(shape) < 3:
        return None
    inputs: dict[str, tuple[Operand, ...]] = {
        "query": (query,),
        "key": (key,),
        "value": (value,),
        "scale": (literal(scale),),
        "query_columns": (literal(bool(graph.attribute(product, "transpose_x", False))),),
        "key_columns": (literal(not graph.attribute(product, "transpose_y", False)),),
        "value_columns": (literal(value_columns),),
        "columns": (literal(columns),),
    }
    if mask is not None:
        inputs["mask"] = (mask,)
    return Operation(operation.position, "fused.attention", operation.name, inputs, operation.outputs)


def _scores(
    graph: Graph, item: Operand | None, shape: tuple[int, ...]
) -> tuple[Operation, float, Operand | None, list[Operation]] | None:
    """The product behind the scores, the factor it is multiplied by, what is added to it, and the ops that do so."""
    mask: Operand | None = None
    scale = 1.0
    between: list[Operation] = []
    masked = graph.made_by(item, "add")
    if masked is not None:
        item, mask = graph.operand(masked, "x"), graph.operand(masked, "y")
        if graph.made_by(item, "matmul") is None and graph.made_by(item, "mul") is None:
            item, mask = mask, item
        whole = graph.shape(mask)
        if whole is None or len(whole) > len(shape):
            return None
        between.append(masked)
    scaled = graph.made_by(item, "mul")
    if scaled is not None:
        for one, other in (("x", "y"), ("y", "x")):
            factor = graph.number(graph.operand(scaled, other))
            if factor is not None:
                scale, item = factor, graph.operand(scaled, one)
                between.append(scaled)
                break
    product = graph.made_by(item, "matmul")
    if product is None or graph.shape(item) != shape:
        return None
    return product, scale, mask, between
