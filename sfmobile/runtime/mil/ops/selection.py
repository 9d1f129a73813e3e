"""Choice between tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op


@op("select", exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MIL `select`: a where cond, else b, with broadcasting."""
    return torch.where(cond, a, b)
