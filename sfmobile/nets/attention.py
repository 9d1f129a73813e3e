"""Attention over data laid out (B, C, 1, S), in the three forms that matter on the Neural Engine.

original         all heads in one batched matrix product, softmax over the last axis (fastest on GPUs and CPUs).
split-einsum     one head at a time, "bchq,bkhc->bkhq", softmax over the channel axis: nothing is transposed and
                 every operand stays small (Apple, "Deploying Transformers on the Apple Neural Engine", 2022).
split-einsum-v2  the same with queries in chunks of 512, so that long sequences stay in the Engine's cache
                 (apple/ml-stable-diffusion).
All three compute softmax((q / sqrt(d)) k + mask) v and share their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.bundle.choices import ATTENTION_FORMS as ATTENTION_FORMS
from sfmobile.bundle.choices import AttentionForm as AttentionForm
from sfmobile.errors import UsageError

QUERY_CHUNK = 512

# Finite, so that fp16 holds it, softmax never sees inf - inf, and k-means over constants stays sane.
MASKED = -3e4


def pointwise(in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    """A linear layer over the channel axis of (B, C, 1, S), written as the 1x1 convolution the Neural Engine wants."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)


def _scaled(q: Tensor, head_dim: int) -> Tensor:
    """Queries over the square root of `head_dim`, before the product and not behind it: in fp16 the product itself is
    infinite where the scores are in range (Stable Diffusion 2.1 reaches 114,617 before it is scaled)."""
    return q * head_dim**-0.5


def attend_original(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """q (B, C, 1, Q), k and v (B, C, 1, K), mask (Q, K) or None; returns (B, C, 1, Q)."""
    batch, channels, _, queries = q.shape
    head_dim = channels // heads

    def split(x: Tensor) -> Tensor:
        return x.reshape(batch, heads, head_dim, x.shape[-1]).transpose(2, 3)

    out = F.scaled_dot_product_attention(split(_scaled(q, head_dim)), split(k), split(v), attn_mask=mask, scale=1.0)
    return out.transpose(2, 3).reshape(batch, channels, 1, queries)


def attend_split(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, chunk: int | None) -> Tensor:
    """Same contract as `attend_original`, one head (and one chunk of queries) at a time."""
    queries = q.shape[-1]
    head_dim = q.shape[1] // heads
    step = chunk if chunk is not None and queries > chunk else queries
    q = _scaled(q, head_dim)
    # (B, K, 1, C): one transpose for all heads.
    k_by_position = k.transpose(1, 3)
    mask_by_key = None if mask is None else mask.transpose(0, 1)[None, :, None, :]
    rows = []
    for head in range(heads):
        span = slice(head * head_dim, (head + 1) * head_dim)
        q_head, k_head, v_head = q[:, span], k_by_position[..., span], v[:, span]
        columns = []
        for start in range(0, queries, step):
            q_part = q_head[..., start : start + step] if step < queries else q_head
            scores = torch.einsum("bchq,bkhc->bkhq", q_part, k_head)
            if mask_by_key is not None:
                scores = scores + mask_by_key[..., start : start + step]
            columns.append(torch.einsum("bkhq,bchk->bchq", scores.softmax(dim=1), v_head))
        rows.append(columns[0] if len(columns) == 1 else torch.cat(columns, dim=3))
    return torch.cat(rows, dim=1)


class Attention(nn.Module):
    """Multi-head attention on (B, C, 1, S); keys and values come from `context` or from the input itself.

    Weight names and meanings are diffusers' (`to_q`, `to_k`, `to_v`, `to_out.0`).
    """

    def __init__(self, channels: int, heads: int, context_channels: int | None = None, qkv_bias: bool = False) -> None:
        super().__init__()
        if channels % heads:
            raise UsageError(f"Attention over {channels} channels can't be split into {heads} heads; use a divisor.")
        self.heads = heads
        self.form: AttentionForm = "original"
        source = channels if context_channels is None else context_channels
        self.to_q = pointwise(channels, channels, bias=qkv_bias)
        self.to_k = pointwise(source, channels, bias=qkv_bias)
        self.to_v = pointwise(source, channels, bias=qkv_bias)
        self.to_out = nn.ModuleList([pointwise(channels, channels)])

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, C, 1, Q), context (B, C', 1, K), mask (Q, K) added to the scores; returns (B, C, 1, Q)."""
        source = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        if self.form == "original":
            out = attend_original(q, k, v, self.heads, mask)
        else:
            chunk = QUERY_CHUNK if self.form == "split-einsum-v2" else None
            out = attend_split(q, k, v, self.heads, mask, chunk)
        return self.to_out[0](out)


def set_attention_form(net: nn.Module, form: AttentionForm) -> None:
    """Choose the attention form of every attention block in `net`; weights are untouched."""
    if form not in ATTENTION_FORMS:
        raise UsageError(f"Attention form '{form}' is unknown; expected one of {', '.join(ATTENTION_FORMS)}.")
    for module in net.modules():
        if isinstance(module, Attention):
            module.form = form
