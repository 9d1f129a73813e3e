"""Giving a sprite of one hue another colour, and which colours it takes so that the caption is true."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sfmobile.train.data.colours import NAMES, RECOLOURS, Recolour, colour_names

# Share of the opaque pixels that must bear the new colour's name.
_TRUE_SHARE = 0.55


def recoloured(sprites: Tensor, recolour: Tensor) -> Tensor:
    """Give the pixels of one hue another colour; other hues and greys stay.

    Saturation is a ratio and hue is invariant under multiplication by alpha, so this is done on premultiplied colour.

    Args:
        sprites: float (M, 4, S, S) in [0, 1], colour multiplied by alpha.
        recolour: float (M, 5): the sprite's hue, the target's hue (degrees), saturation factor, value factor, lift.
    """
    rgb, alpha = sprites[:, :3], sprites[:, 3]
    own, target, saturate, brighten, lift = (column[:, None, None] for column in recolour.unbind(1))
    high, low = rgb.amax(1), rgb.amin(1)
    chroma = high - low
    safe = chroma.clamp_min(1e-5)
    red, green, blue = rgb.unbind(1)
    sector = torch.where(
        high == red,
        ((green - blue) / safe) % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    distance = ((sector * 60 - own + 180) % 360 - 180).abs()
    saturation = chroma / high.clamp_min(1e-5)
    share = ((44 - distance) / 14).clamp(0, 1) * ((saturation - 0.1) / 0.12).clamp(0, 1)
    value = brighten * high
    value = value + lift * (alpha - value).clamp_min(0)
    # Pale objects take a full colour too: a pale orange would pass for beige.
    strength = (saturation.pow(0.6) * saturate).clamp(0, 1)
    # A pure hue: piecewise linear in each channel, at most 1 and at least 0.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=rgb.device)[None, :, None, None]
    k = (offsets + target[:, None] / 60) % 6
    shade = torch.minimum(k, 4 - k).clamp(0, 1)
    new = value[:, None] * (1 - strength[:, None] * shade)
    mixed = share[:, None] * new + (1 - share[:, None]) * rgb
    return torch.cat([mixed, alpha[:, None]], dim=1)


def recolour_row(hue: float, target: Recolour) -> tuple[float, float, float, float, float]:
    """One row of `recoloured`'s argument, for a sprite of this hue in degrees."""
    return (hue, target.hue, target.saturation, target.value, target.lift)


def true_recolours(pixels: NDArray[np.uint8], hues: NDArray[np.float32]) -> list[tuple[str, ...]]:
    """For each sprite, the colours it visibly has after recolouring to them.

    Args:
        pixels: uint8 (M, 4, S, S), colour multiplied by alpha.
        hues: (M,) degrees.
    """
    # An eighth of the size says as much about areas of colour.
    small = F.avg_pool2d(torch.from_numpy(pixels).float() / 255, max(pixels.shape[-1] // 32, 1))
    names: list[list[str]] = [[] for _ in hues]
    for name, target in RECOLOURS.items():
        rows = torch.tensor([recolour_row(float(hue), target) for hue in hues])
        painted = recoloured(small, rows).numpy()
        for number, sprite in enumerate(painted):
            opaque = sprite[3] > 0.9
            if opaque.any():
                found = colour_names((sprite[:3, opaque] / sprite[3, opaque]).clip(0, 1).T)
                if (found == NAMES.index(name)).mean() >= _TRUE_SHARE:
                    names[number].append(name)
    return [tuple(row) for row in names]
