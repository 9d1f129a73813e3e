"""Groups of operations that torch has one call for. Fused results equal the unfused ones up to float32 rounding.

In fp16 evaluation fused calls round within, wherever the single operations would.
"""

from __future__ import annotations

from dataclasses import replace

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import Operation
from sfmobile.mlpackage.rewriting import Rewrite
from sfmobile.runtime.mil.fusion.attention import fuse_attention
from sfmobile.runtime.mil.fusion.group_norm import fuse_group_norm, fuse_rounded_group_norm
from sfmobile.runtime.mil.fusion.split_attention import fuse_split_attention


def round_within(graph: Graph, operation: Operation) -> Operation | None:
    """A fused attention of float16 values as the call that rounds within."""
    (_, type_), *_ = operation.outputs
    if operation.kind not in ("fused.attention", "fused.split_attention") or type_.data_type != "fp16":
        return None
    return replace(operation, kind=operation.kind.replace("fused.", "fused.rounded_"))


FUSIONS: tuple[Rewrite, ...] = (fuse_group_norm, fuse_attention, fuse_split_attention)
ROUNDED_FUSIONS: tuple[Rewrite, ...] = (fuse_rounded_group_norm, fuse_attention, fuse_split_attention, round_within)

__all__ = [
    "FUSIONS",
    "ROUNDED_FUSIONS",
    "fuse_attention",
    "fuse_group_norm",
    "fuse_rounded_group_norm",
    "fuse_split_attention",
    "round_within",
]
