"""Attention as ONNX Runtime's own MultiHeadAttention, which never holds all scores at once."""

from __future__ import annotations

from sfmobile.runtime.onnx.builder import CONTRIB_DOMAIN, Arguments, GraphBuilder
from sfmobile.runtime.onnx.registry import translates


def _by_position(builder: GraphBuilder, value: str, shape: tuple[int, ...], columns: bool) -> tuple[str, int, int]:
    """(B, heads, S, E), or (B, heads, E, S) with `columns`, as (B, S, heads * E); also heads and E.

    Without a heads axis there is one head.
    """
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
        value = builder.node("Reshape", [value, builder.integers(*shape)])
    if len(shape) != 4:
        raise ValueError(f"has operands of rank {len(shape)}")
    batch, heads, rows, depth = shape if not columns else (shape[0], shape[1], shape[3], shape[2])
    turned = builder.node("Transpose", [value], perm=[0, 3, 1, 2] if columns else [0, 2, 1, 3])
    return builder.node("Reshape", [turned, builder.integers(batch, rows, heads * depth)]), heads, depth


def _attend(builder: GraphBuilder, q: str, k: str, v: str, heads: int, scale: float, bias: str | None) -> str:
    """q, k, v (B, S, heads * E), bias (1 or B, 1 or heads, Q, K) added to the scores; returns (B, Q, heads * V)."""
    # In between come: bias of the projections, key padding mask.
    operands = [q, k, v, "", "", bias] if bias else [q, k, v]
    return builder.node("MultiHeadAttention", operands, domain=CONTRIB_DOMAIN, num_heads=heads, scale=scale)


def _bias(builder: GraphBuilder, arguments: Arguments, name: str, scores: tuple[int, int]) -> str | None:
    """A float mask as (B or 1, heads or 1, Q, K)."""
    if name not in arguments:
        return None
    shape = arguments.shape(name)
    if len(arguments.shape("query")) == 3 and len(shape) == 3:
        # (B, Q, K) of operands without an axis of heads: that axis stands behind B.
        shape = (shape[0], 1, *shape[1:])
    leading = (*(1,) * (4 - len(shape)), *shape)[:2]
    wide = builder.node("Reshape", [arguments[name], builder.integers(*leading, *((1, 1, *shape)[-2:]))])
    return builder.node("Expand", [wide, builder.integers(*leading, *scores)])


def _restored(builder: GraphBuilder, arguments: Arguments, attended: str, heads: int, columns: bool) -> None:
    """(B, Q, heads * V) as the program has it: (B, heads, Q, V), or (B, heads, V, Q) with `columns`."""
    shape = arguments.out_shape
    depth, rows = (shape[-2], shape[-1]) if columns else (shape[-1], shape[-2])
    parts = builder.node("Reshape", [attended, builder.integers(shape[0], rows, heads, depth)])
    turned = builder.node("Transpose", [parts], perm=[0, 2, 3, 1] if columns else [0, 2, 1, 3])
    builder.node("Reshape", [turned, builder.integers(*shape)], arguments.outputs)


@translates("fused.attention", "scaled_dot_product_attention")
def attention(builder: GraphBuilder, arguments: Arguments) -> None:
    """Both with operands (B, heads, S, E); the fused form may have them by columns."""
    fused = arguments.operation.kind == "fused.attention"
    parts = {}
    for name in ("query", "key", "value"):
        columns = bool(fused and arguments.constant(f"{name}_columns"))
        parts[name] = (*_by_position(builder, arguments[name], arguments.shape(name), columns), columns)
    heads, depth = parts["query"][1:3]
    lengths = [arguments.shape(name)[-1 if parts[name][3] else -2] for name in ("query", "key")]
    scale = arguments.constant("scale", depth**-0.5)
    mask = "mask" if fused else "attn_mask"
    if mask in arguments and builder.graph.type_of(arguments.item(mask)).data_type == "bool":
        raise ValueError("has a boolean mask")
    bias = _bias(builder, arguments, mask, (lengths[0], lengths[1]))
    attended = _attend(builder, parts["query"][0], parts["key"][0], parts["value"][0], heads, scale, bias)
    _restored(builder, arguments, attended, heads, bool(fused and arguments.constant("columns")))


@translates("fused.split_attention")
def split_attention(builder: GraphBuilder, arguments: Arguments) -> None:
    """query (B, C, 1, Q) scaled already, key_by_position (B, K, 1, C), value (B, V, 1, K), mask (1, K, 1, Q)."""
    heads = arguments.constant("heads")
    query, value = (
        builder.node(
            "Transpose",
            [builder.node("Squeeze", [arguments[name], builder.integers(2)])],
            perm=[0, 2, 1],
        )
        for name in ("query", "value")
    )
    key = builder.node("Squeeze", [arguments["key_by_position"], builder.integers(2)])
    bias = None
    if "mask" in arguments:
        bias = builder.node("Transpose", [arguments["mask"]], perm=[0, 2, 3, 1])
    attended = _attend(builder, query, key, value, heads, 1.0, bias)
    columns = builder.node("Transpose", [attended], perm=[0, 2, 1])
    builder.node("Unsqueeze", [columns, builder.integers(2)], arguments.outputs)
