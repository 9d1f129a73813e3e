"""Attention as one operation (iOS 18)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.builder import Operands
from sfmobile.runtime.coreai.layers import product, turned
from sfmobile.runtime.coreai.registry import bridges

if TYPE_CHECKING:
    from coreai.authoring import Value


@bridges("scaled_dot_product_attention")
def scaled_dot_product_attention(operands: Operands) -> Value:
    """query (B, H, L, E), key (B, H, S, E), value (B, H, S, V), a mask added to the scores; a composite."""
    from coreai import authoring as core

    rank, width = len(operands.shape("query")), operands.shape("query")[-1]
    names = ["query", "key", "value"]
    if "attn_mask" in operands:
        if operands.builder.type_of(operands.item("attn_mask")).data_type == "bool":
            raise ValueError("has a boolean mask")
        names.append("attn_mask")

    def body(query: Value, key: Value, value: Value, mask: Value | None = None) -> Value:
        scaled = core.broadcasting_mul(query, np.asarray(operands.number(width**-0.5)))
        scores = product(operands, core.broadcasting_batch_matmul, scaled, turned(key, rank))
        if mask is not None:
            scores = core.broadcasting_add(scores, mask)
        weights = core.softmax(scores, np.asarray(rank - 1, np.int32))
        return product(operands, core.broadcasting_batch_matmul, weights, value)

    attributes = {"is_causal": False, "window_size": 0}
    taken = {name: operands[name] for name in names}
    return library.composite_call("scaled_dot_product_attention", body, taken, attributes)
