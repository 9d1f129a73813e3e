"""A network whose weights don't fit memory: each module's are read for its call and dropped behind it.

Stable Diffusion XL's UNet takes 10 GB in float32, and its gradients as much again. Read layer by layer from where they
are mapped, weights take the memory of one layer. Going backwards, each block is computed again when its turn comes
(gradient checkpointing, arXiv 1604.06174), so that no block's inner activations, and no weights, wait for it; a
weight's gradient is handed over the moment it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfmobile.nets.resnet import Downsample, ResnetBlock, Upsample
from sfmobile.nets.transformer import TransformerLayer

# What is computed again as one: between them stand only sums and single layers.
BLOCKS = (ResnetBlock, TransformerLayer, Downsample, Upsample)


class WeightStream:
    """Weights for `net`, which has none (parameters on the meta device), whenever one of its modules is called.

    read: a weight by its state-dict key, any float type; computed with in float32. Where gradients are enabled, those
    of the keys in `wanted` go to `take` and are forgotten.
    """

    def __init__(self, net: nn.Module, read: Callable[[str], Tensor]) -> None:
        self.read = read
        self.wanted: Collection[str] = ()
        self.take: Callable[[str, Tensor], None] = lambda key, gradient: None
        for name, module in net.named_modules():
            if module._parameters:
                prefix = f"{name}." if name else ""
                module.register_forward_pre_hook(partial(self._fill, prefix))
                module.register_forward_hook(_drop)
            if isinstance(module, BLOCKS):
                vars(module)["forward"] = partial(_recomputed, module.forward)

    def _fill(self, prefix: str, module: nn.Module, _inputs: object) -> None:
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            key = f"{prefix}{name}"
            wanted = torch.is_grad_enabled() and key in self.wanted
            weight = nn.Parameter(self.read(key).float(), requires_grad=wanted)
            if wanted:
                hook: Callable[[Callable[[Tensor], None]], object] = weight.register_post_accumulate_grad_hook
                hook(partial(self._hand_over, key))
            module._parameters[name] = weight

    def _hand_over(self, key: str, weight: Tensor) -> None:
        assert weight.grad is not None
        self.take(key, weight.grad)
        weight.grad = None


def _drop(module: nn.Module, _inputs: object, _output: object) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)


def _recomputed(forward: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """A block's forward, its activations computed again on the way back. Not of the kind that keeps the first pass's
    graph: that would keep the weights with it."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    result: Tensor = checkpoint(forward, *inputs, use_reentrant=True)
    return result
