"""Exponential moving average of the trained weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """Shadow weights: shadow <- d * shadow + (1 - d) * weight, with d rising to `decay` over the first steps.

    torch's `AveragedModel` around the same update would be another average: it copies the weights at its first update
    where this one blends them, its decay doesn't rise, and it holds a copy of the whole module, frozen teachers and
    losses included, where this holds what is trained, in float32.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.shadow = [p.detach().float().clone() for p in module.parameters() if p.requires_grad]

    def update(self, module: nn.Module, step: int) -> None:
        """Blend in the weights after optimisation step `step` (counted from 0)."""
        weights = [p.detach() for p in module.parameters() if p.requires_grad]
        blend = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
        blend(self.shadow, weights, step)

    def state_dict(self) -> dict[str, Tensor]:
        """Shadow weights under the module's own names."""
        return dict(zip(self.names, self.shadow, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over shadow weights written by `state_dict`."""
        for name, shadow in zip(self.names, self.shadow, strict=True):
            shadow.copy_(state[name])
