"""Classifier-free guidance (arXiv 2207.12598) over a UNet whose batch was fixed at export.

    guided = unconditional + scale * (conditional - unconditional)

Batch 2: one call, rows (unconditional, conditional). Batch 1: two calls, the same numbers.
A UNet that takes the scale as an input (a guidance embedding) is called once, with the prompt alone, at every scale.
At scale 1 (and below, as in diffusers) the formula is the conditional prediction alone: a batch-1 UNet is called once,
half the work; a batch-2 UNet, whose shape can't change, gets the conditional text in both rows and the first row
is used. The negative prompt isn't encoded then. Models meant for guidance 1 are best exported with batch 1.

A model that edits pictures is guided by both (arXiv 2211.09800, equation 3), of three rows:

    guided = unconditional + picture_scale * (pictured - unconditional) + scale * (conditional - pictured)

where `pictured` knows the picture and the negative prompt, and `unconditional` no picture. Batch 1 takes three calls,
batch 2 two, the last row twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from sfmobile.errors import GateError, UsageError
from sfmobile.runtime.protocol import LoadedComponent

# Inputs of the UNet beside latents and time, by name, each of one row; "latents" is what stands behind the noisy ones.
Conditions: TypeAlias = Mapping[str, np.ndarray]

# More of a call's inputs, of those that it has.
Further: TypeAlias = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class UNetCall:
    """One call of the UNet: its inputs by name and its output, batch first."""

    inputs: Mapping[str, np.ndarray]
    model_output: np.ndarray


@dataclass(frozen=True)
class GuidedPrediction:
    """The guided output (1, C, H, W) and the calls it came from."""

    model_output: np.ndarray
    calls: tuple[UNetCall, ...]


def check_scale(scale: float) -> None:
    """Raise `UsageError` for a guidance scale that means nothing."""
    if not math.isfinite(scale) or scale < 0:
        raise UsageError(f"The guidance scale {scale} makes no sense; expected 1 (none) or more, 7.5 say.")


def is_guided(scale: float) -> bool:
    """Whether `scale` needs the unconditional prediction."""
    return scale > 1.0


@dataclass(frozen=True)
class Guidance:
    """Guidance for one prompt.

    conditional: what steers the UNet, by the name of its input, one row each: hidden states (1, C, 1, S) first of all.
    unconditional: the same for the negative prompt; None if the scale is at most 1 or one of the conditions.
    pictured: of a model that edits a picture, the negative prompt with the picture; unconditional is without, then.
    """

    batch: Literal[1, 2]
    scale: float
    conditional: Conditions
    unconditional: Conditions | None
    pictured: Conditions | None = None
    picture_scale: float = 1.0

    def predict(
        self, unet: LoadedComponent, latents: np.ndarray, time_embedding: np.ndarray, further: Further = lambda _: {}
    ) -> GuidedPrediction:
        """Guided prediction for latents (1, C, H, W) and their time embedding (1, D, 1, 1).

        further: what a call takes beside all that, of its other inputs.
        Raises `GateError` if the UNet gives infinities or NaN.
        """
        if self.unconditional is None:
            call = self._call(unet, latents, time_embedding, [self.conditional] * self.batch, further)
            return GuidedPrediction(call.model_output[:1], (call,))
        rows = [self.unconditional, *([] if self.pictured is None else [self.pictured]), self.conditional]
        # A batch that isn't full takes its last row again.
        batches = [[*rows[start:], rows[-1]][: self.batch] for start in range(0, len(rows), self.batch)]
        calls = tuple(self._call(unet, latents, time_embedding, batch, further) for batch in batches)
        outputs = np.concatenate([call.model_output for call in calls])
        unconditional, conditional = outputs[:1], outputs[len(rows) - 1 : len(rows)]
        if self.pictured is None:
            return GuidedPrediction(unconditional + np.float32(self.scale) * (conditional - unconditional), calls)
        pictured = outputs[1:2]
        guided = unconditional + np.float32(self.scale) * (conditional - pictured)
        return GuidedPrediction(guided + np.float32(self.picture_scale) * (pictured - unconditional), calls)

    def _call(
        self,
        unet: LoadedComponent,
        latents: np.ndarray,
        time_embedding: np.ndarray,
        rows: list[Conditions],
        further: Further,
    ) -> UNetCall:
        named = {name: np.concatenate([row[name] for row in rows], axis=0) for name in rows[0]}
        repeated = np.repeat(latents, len(rows), axis=0)
        behind = named.pop("latents", None)
        inputs = {
            "latents": repeated if behind is None else np.concatenate([repeated, behind], axis=1),
            "time_embedding": np.repeat(time_embedding, len(rows), axis=0),
            **named,
        }
        inputs.update(further(inputs))
        output = unet.predict(inputs)["model_output"]
        check_finite(output, "UNet")
        return UNetCall(inputs, output)


def check_finite(output: np.ndarray, component: str) -> None:
    """Raise `GateError` if a component's output holds NaN or infinity, which would end in a black picture."""
    broken = output.size - int(np.count_nonzero(np.isfinite(output)))
    if broken:
        raise GateError(
            f"The {component} gave {broken} of {output.size} values that are NaN or infinite, most likely an fp16 "
            "overflow; run it with fp32 evaluation, and `sfmobile verify` to find the op."
        )
