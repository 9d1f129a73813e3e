"""Attention with each operation's result rounded to float16, a block of queries at a time.

Rows of scores depend on nothing but their own query, so a block gives to the bit what the whole would, up to the order
of float32 sums; but its scores stay in the cache, where those of 4,096 pixels and 16 heads are two gigabytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfmobile.runtime.mil.packing import multiply_rows

# Scores computed at once: 4 MB of them.
_BLOCK = 1 << 20
# With fewer scores than this per head, all heads are multiplied in one call.
_SMALL = 1 << 14


def attend_rounded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """query (*, Q, E), key (*, K, E), value (*, K, V), mask broadcast to (*, Q, K); returns (*, Q, V).

    Rounded: the product, its multiple (unless `scale` is 1), the masked scores, the softmax. Not the result.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    if queries * keys < _SMALL:
        weights = _weights(torch.matmul(query, key.transpose(-1, -2)), mask, scale)
        return torch.matmul(weights, value)
    leading = query.shape[:-2]
    out = query.new_empty(*leading, queries, value.shape[-1])
    masks = None if mask is None else mask.expand(*leading, queries, keys)
    rows = max(1, _BLOCK // keys)
    for place in _places(leading):
        rows_of_keys, columns_of_values = key[place].contiguous(), value[place].transpose(0, 1).contiguous()
        for start in range(0, queries, rows):
            block = slice(start, min(start + rows, queries))
            scores = multiply_rows(query[place][block].contiguous(), rows_of_keys)
            weights = _weights(scores, None if masks is None else masks[place][block], scale)
            out[place][block] = multiply_rows(weights, columns_of_values)
    return out


def _weights(scores: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax of the scores, rounded after every operation; overwrites `scores`."""
    _round(scores)
    if scale != 1.0:
        _round(scores.mul_(scale))
    if mask is not None:
        _round(scores.add_(mask))
    return _round(torch.softmax(scores, -1))


def _round(values: Tensor) -> Tensor:
    return values.copy_(values.to(torch.float16))


def _places(leading: torch.Size) -> list[tuple[int, ...]]:
    """All indices into the leading axes."""
    places: list[tuple[int, ...]] = [()]
    for size in leading:
        places = [(*place, index) for place in places for index in range(size)]
    return places
