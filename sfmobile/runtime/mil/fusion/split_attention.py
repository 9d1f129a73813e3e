"""Split-einsum attention: heads (and chunks of queries) computed one by one on (B, C, 1, S), then joined.

The Neural Engine wants small operands; elsewhere all heads in one call are several times faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import Operand, Operation
from sfmobile.mlpackage.rewriting import literal
from sfmobile.runtime.mil.fusion.rounded import attend_rounded
from sfmobile.runtime.mil.ops.registry import op


@op("fused.split_attention", fresh=True)
def split_attention(
    query: Tensor, key_by_position: Tensor, value: Tensor, mask: Tensor | None = None, *, heads: int
) -> Tensor:
    """softmax(key query + mask) over the keys, times value, for each head's part of the channels.

    query (B, C, 1, Q) already scaled, key_by_position (B, K, 1, C), value (B, V, 1, K), mask (1, K, 1, Q); returns
    (B, V, 1, Q).
    """
    out = F.scaled_dot_product_attention(
        *_by_head(query, key_by_position, value, heads), attn_mask=_by_query(mask), scale=1.0
    )
    return out.transpose(2, 3).reshape(query.shape[0], -1, 1, query.shape[3])


@op("fused.rounded_split_attention", fresh=True)
def rounded_split_attention(
    query: Tensor, key_by_position: Tensor, value: Tensor, mask: Tensor | None = None, *, heads: int
) -> Tensor:
    """`fused.split_attention` with every operation's result but the last rounded to float16, as op by op."""
    out = attend_rounded(*_by_head(query, key_by_position, value, heads), _by_query(mask), 1.0)
    return out.transpose(2, 3).reshape(query.shape[0], -1, 1, query.shape[3])


def _by_head(query: Tensor, key_by_position: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as (B, heads, S, E)."""
    batch, _, _, queries = query.shape
    keys = value.shape[3]
    return (
        query.reshape(batch, heads, -1, queries).transpose(2, 3),
        key_by_position.reshape(batch, keys, heads, -1).transpose(1, 2),
        value.reshape(batch, heads, -1, keys).transpose(2, 3),
    )


def _by_query(mask: Tensor | None) -> Tensor | None:
    """A mask (1, K, 1, Q) as (1, 1, Q, K)."""
    return None if mask is None else mask[:, :, 0].transpose(1, 2).unsqueeze(1)


@dataclass(frozen=True)
class _Product:
    """One head's and chunk's softmax(key query + mask) value."""

    query: str
    key: str
    value: str
    mask: np.ndarray | None


def fuse_split_attention(graph: Graph, operation: Operation) -> Operation | None:
    """Rooted at the last op: the `concat` of heads, or of a single head's chunks, or the one einsum of values."""
    if operation.kind not in ("concat", "einsum"):
        return None
    (root, _) = operation.outputs[0]
    if operation.kind == "einsum" and any(reader.kind == "concat" for reader in graph.readers.get(root, ())):
        return None  # Joined with others: the `concat` is the root, if any.
    rows = [root]
    if operation.kind == "concat" and graph.attribute(operation, "axis") == 1:
        rows = [item for item in operation.inputs["values"] if isinstance(item, str)]
        if len(rows) != len(operation.inputs["values"]) or any(graph.uses[row] != 1 for row in rows):
            return None
    heads = [_head(graph, row) for row in rows]
    parts = [head for head in heads if head is not None]
    if len(parts) != len(rows):
        return None
    whole = _joined(graph, parts)
    shape = graph.shape(root)
    if whole is None or shape is None or graph.shape(whole.value) is None:
        return None
    inputs: dict[str, tuple[Operand, ...]] = {
        "query": (whole.query,),
        "key_by_position": (whole.key,),
        "value": (whole.value,),
        "heads": (literal(len(parts)),),
    }
    if whole.mask is not None:
        inputs["mask"] = (literal(whole.mask),)
    return Operation(operation.position, "fused.split_attention", operation.name, inputs, operation.outputs)


def _head(graph: Graph, row: str) -> _Product | None:
    """One head: a product, or a concat over queries of products that share key and value."""
    joined = graph.made_by(row, "concat", alone=False)
    if joined is None:
        return _product(graph, row)
    if graph.attribute(joined, "axis") != 3:
        return None
    products = []
    for item in joined.inputs["values"]:
        product = _product(graph, item) if isinstance(item, str) and graph.uses[item] == 1 else None
        if product is None:
            return None
        products.append(product)
    first = products[0]
    if any((product.key, product.value) != (first.key, first.value) for product in products):
        return None
    query = _whole_of(graph, [product.query for product in products], axis=3)
    masks = [product.mask for product in products if product.mask is not None]
    if query is None or len(masks) not in (0, len(products)):
        return None
    return _Product(query, first.key, first.value, np.concatenate(masks, axis=3) if masks else None)


def _product(graph: Graph, name: str) -> _Product | None:
    """einsum(value, softmax(einsum(key, query) + mask over axis 1))."""
    values = _einsum(graph, graph.made_by(name, "einsum", alone=False))
    weights = None if values is None else graph.made_by(values[1], "softmax")
    if values is None or weights is None or graph.attribute(weights, "axis", -1) != 1:
        return None
    item = graph.operand(weights, "x")
    mask = None
    masked = graph.made_by(item, "add")
    if masked is not None:
        found = graph.value(graph.operand(masked, "y"))
        shape = graph.shape(item)
        if not isinstance(found, np.ndarray) or shape is None or found.shape != (1, *shape[1:]):
            return None
        item, mask = graph.operand(masked, "x"), found.astype(np.float32)
    product = graph.made_by(item, "einsum")
    scores = _einsum(graph, product)
    if scores is None or product is None:
        return None
    if not graph.one_type([graph.makers[name], weights, product, *([] if masked is None else [masked])]):
        return None
    shapes = [graph.shape(part) for part in (scores[1], scores[0], values[0])]
    if any(shape is None or len(shape) != 4 or shape[2] != 1 for shape in shapes):
        return None
    return _Product(scores[1], scores[0], values[0], mask)


def _einsum(graph: Graph, operation: Operation | None) -> tuple[str, str] | None:
    """The two operands of an einsum that multiplies (n, c, h, w) and (n, w, h, u) to (n, c, h, u)."""
    if operation is None:
        return None
    equation = graph.attribute(operation, "equation")
    values = operation.inputs.get("values", ())
    if not isinstance(equation, str) or len(values) != 2 or not all(isinstance(value, str) for value in values):
        return None
    letters = {letter: place for place, letter in reversed(list(enumerate(equation)))}
    places = [letters[letter] for letter in equation]
    canonical = "nchw,nwhu->nchu"
    if len(equation) != len(canonical) or places != [canonical.index(letter) for letter in canonical]:
        return None
    return str(values[0]), str(values[1])


def _joined(graph: Graph, heads: list[_Product]) -> _Product | None:
    """All heads as one: each part a share of one value's channels, in order, and one mask."""
    first = heads[0]
    if len(heads) == 1:
        return first
    for head in heads:
        if (head.mask is None) != (first.mask is None):
            return None
        if head.mask is not None and first.mask is not None and not np.array_equal(head.mask, first.mask):
            return None
    query = _whole_of(graph, [head.query for head in heads], axis=1, equal=True)
    key = _whole_of(graph, [head.key for head in heads], axis=3, equal=True)
    value = _whole_of(graph, [head.value for head in heads], axis=1, equal=True)
    if query is None or key is None or value is None:
        return None
    return _Product(query, key, value, first.mask)


def _whole_of(graph: Graph, parts: list[str], axis: int, equal: bool = False) -> str | None:
    """The value that `parts` are a split of along `axis`, all of them and in order (of equal size)."""
    split = graph.makers.get(parts[0])
    if split is None or split.kind != "split" or graph.attribute(split, "axis") != axis:
        return None
    if [name for name, _ in split.outputs] != parts:
        return None
    if equal and len({type_.shape for _, type_ in split.outputs}) != 1:
        return None
    whole = graph.operand(split, "x")
    return whole if isinstance(whole, str) else None
