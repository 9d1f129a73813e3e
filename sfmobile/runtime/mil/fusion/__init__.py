"""Groups of operations that torch has one call for. Fused results equal the unfused ones up to float32 rounding."""

from __future__ import annotations

from sfmobile.runtime.mil.fusion.attention import fuse_attention
from sfmobile.runtime.mil.fusion.group_norm import fuse_group_norm
from sfmobile.runtime.mil.fusion.split_attention import fuse_split_attention
from sfmobile.runtime.mil.graph import Rewrite

FUSIONS: tuple[Rewrite, ...] = (fuse_group_norm, fuse_attention, fuse_split_attention)

__all__ = ["FUSIONS", "fuse_attention", "fuse_group_norm", "fuse_split_attention"]
