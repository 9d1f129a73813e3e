"""Exponential moving average of the trained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Shadow weights: shadow <- d * shadow + (1 - d) * weight, with d rising to `decay` over the first steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.shadow = [p.detach().float().clone() for p in module.parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Blend in the weights after optimisation step `step` (counted from 0)."""
        weights = [p.detach() for p in module.parameters() if p.requires_grad]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, weights, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Shadow weights under the module's own names."""
        return dict(zip(self.names, self.shadow, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over shadow weights written by `state_dict`."""
        for name, shadow in zip(self.names, self.shadow, strict=True):
            shadow.copy_(state[name])
