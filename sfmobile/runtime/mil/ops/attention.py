"""Attention as one op (iOS 18)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sfmobile.runtime.mil.ops.registry import op


@op("scaled_dot_product_attention", fresh=True)
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """MIL `scaled_dot_product_attention`. query (B, *, L, E), key (B, *, S, E), value (B, *, S, V), attn_mask (*, S)
    boolean (True takes part) or added to the scores; returns (B, *, L, V)."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
