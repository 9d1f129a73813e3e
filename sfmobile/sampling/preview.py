"""Cheap previews: an affine map from latent channels to colours, fitted to the model's own decoder.

A decoder is far from linear in detail, but the colour of a flat patch of latents is close to an affine function of its
channels. One decoder call on random patches is enough to fit it; a preview then costs a (4, 3) matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.runtime.protocol import LoadedComponent
from sfmobile.sampling.picture import to_pixels

PATCHES_PER_SIDE = 8


@dataclass(frozen=True)
class LinearPreview:
    """colour = latents * weight + bias, per latent pixel; weight (channels, 3), bias (3,), colours in [-1, 1]."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(cls, decoder: LoadedComponent, record: LatentsRecord, seed: int = 0) -> LinearPreview:
        """Fit by least squares to what `decoder` makes of standard normal patches of latents (one call)."""
        side = min(PATCHES_PER_SIDE, record.height, record.width)
        colours = np.random.default_rng(seed).standard_normal((record.channels, side, side)).astype(np.float32)
        rows = np.arange(record.height) * side // record.height
        columns = np.arange(record.width) * side // record.width
        latents = colours[:, rows][:, :, columns][None]
        image = decoder.predict({"latents": latents / np.float32(record.scaling_factor)})["image"]
        samples = latents[0].reshape(record.channels, -1).T
        design = np.concatenate([samples, np.ones((len(samples), 1), np.float32)], axis=1)
        target = _shrink(image[0], record.pixels_per_latent).reshape(3, -1).T
        solution = np.linalg.lstsq(design, np.clip(target, -1, 1), rcond=None)[0]
        return cls(solution[:-1].astype(np.float32), solution[-1].astype(np.float32))

    def pixels(self, latents: np.ndarray) -> np.ndarray:
        """Preview of latents (1, C, H, W) at their own resolution: uint8 (H, W, 3)."""
        image = np.einsum("bchw,ck->bkhw", latents, self.weight) + self.bias[None, :, None, None]
        return to_pixels(image)


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over squares of `factor`: (3, H, W) to (3, H / factor, W / factor)."""
    channels, height, width = image.shape
    squares = image.reshape(channels, height // factor, factor, width // factor, factor)
    means: np.ndarray = squares.mean(axis=(2, 4))
    return means
