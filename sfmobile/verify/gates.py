"""How close is close enough, in dB, and where the figures come from.

A component: 60 dB, or 35 dB if its weights are palettized, the gate of apple/ml-stable-diffusion's own conversions.

The loop: classifier-free guidance takes u + s (c - u) of two predictions. If each may be off by e, and the two errors
have nothing to do with each other, the guided one is off by sqrt(s^2 + (s - 1)^2) e: 7 dB more at s = 2, 20 dB at 7.5.
The latents behind every step, and the picture, may be off by that, so the gate of the loop is the components' less
what guidance makes of it. Steps are given nothing on top: a step takes away part of the error before it, and what
they add up to was measured to stay within (README, "Agreement with the reference").

The picture is rounded to 8 bits, which turns an error far below a level into a few values that are one level off: with
p dB before rounding, the mean distance 255 10^(-p / 20) is the share of values that change, so that 24 + p / 2 dB are
left where p is more than 48.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfmobile.sampling.guidance import is_guided

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentRecord

PALETTIZED_GATE_DB = 35.0
UNCOMPRESSED_GATE_DB = 60.0
# Rounding costs a palettized package what it costs another: its weights are decoded to the same float16.
ROUNDED_GATE_DB = 60.0
# Above it, rounding to 8 bits is what a picture's error is: 20 log10(255).
LEVELS_DB = 20 * math.log10(255)


@dataclass(frozen=True)
class Gates:
    """PSNR to reach, in dB. component: of every component, or None for the default of its compression.

    picture: of the picture of the whole loop, or None for what the components' gates and guidance leave.
    """

    component: float | None = None
    picture: float | None = None

    def of(self, record: ComponentRecord) -> float:
        """The gate of a component."""
        if self.component is not None:
            return self.component
        return UNCOMPRESSED_GATE_DB if record.compression is None else PALETTIZED_GATE_DB

    def of_latents(self, records: Iterable[ComponentRecord], scale: float) -> float:
        """The gate of the latents behind every step, at a guidance scale."""
        return min(self.of(record) for record in records) - guidance_loss(scale)

    def of_picture(self, records: Iterable[ComponentRecord], scale: float) -> float:
        """The gate of the picture, at a guidance scale."""
        return self.picture if self.picture is not None else in_levels(self.of_latents(records, scale))


def guidance_loss(scale: float) -> float:
    """What guidance makes of errors of its two predictions, in dB; nothing where it isn't used."""
    return 20 * math.log10(math.hypot(scale, scale - 1)) if is_guided(scale) else 0.0


def in_levels(decibels: float) -> float:
    """PSNR over 8-bit pixels of a picture that has `decibels` before it is rounded to them."""
    return min(decibels, (decibels + LEVELS_DB) / 2)
