"""Random numbers. A seed makes them the same in every call; they are torch's, not Core ML's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op


def _generator(seed: int) -> torch.Generator:
    generator = torch.Generator()
    if seed < 0:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


@op("random_normal", varies=True)
def random_normal(*, shape: tuple[int, ...], mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    """MIL `random_normal`."""
    return torch.randn(shape, generator=_generator(seed)) * stddev + mean


@op("random_uniform", varies=True)
def random_uniform(*, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    """MIL `random_uniform` in [low, high)."""
    return torch.rand(shape, generator=_generator(seed)) * (high - low) + low


@op("random_bernoulli", exact=True, varies=True)
def random_bernoulli(*, shape: tuple[int, ...], prob: float = 0.5, seed: int = -1) -> Tensor:
    """MIL `random_bernoulli`: 1 with probability `prob`, else 0."""
    return (torch.rand(shape, generator=_generator(seed)) < prob).float()


@op("random_categorical", exact=True, varies=True)
def random_categorical(
    x: Tensor, *, mode: Literal["logits", "probs"] = "logits", size: int = 1, seed: int = -1
) -> Tensor:
    """MIL `random_categorical`. x (*, K): `size` indices for each of its distributions."""
    weights = x.softmax(-1) if mode == "logits" else x
    drawn = torch.multinomial(weights.reshape(-1, x.shape[-1]), size, replacement=True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).float()
