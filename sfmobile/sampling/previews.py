"""Pictures of what each step predicts, made by who watches the loop and not in it.

Linear: an affine map from latent channels to colours, at the resolution of the latents, for next to nothing. Its
factors are the bundle's own decoder's: least squares over what that makes of patches of noise, one call before the
loop. Tiny: by the bundle's component for previews, a tiny autoencoder's decoder, one call a step. Decoded: by the
decoder itself, one call a step. Swift has the first and the last (`LinearPreview`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.sampling.choices import PreviewKind
from sfmobile.sampling.noise import initial_latents
from sfmobile.sampling.picture import Picture, Settings, to_pixels

# Patches on each side of the latents that the decoder is shown.
PATCHES = 8


@dataclass(frozen=True)
class LinearPreview:
    """Factors float64 (channels + 1, 3): a row of colours for each latent channel, the last for the constant."""

    weight: np.ndarray

    def image(self, latents: np.ndarray) -> np.ndarray:
        """Latents of the loop (1, C, H, W) as an image float32 (1, 3, H, W), about -1 to 1."""
        colours = np.einsum("nchw,cd->ndhw", latents.astype(np.float64), self.weight[:-1])
        image: np.ndarray = (colours + self.weight[-1][None, :, None, None]).astype(np.float32)
        return image


def patches(record: LatentsRecord) -> np.ndarray:
    """Patches of normal noise as latents of the loop, float32 (1, C, H, W): what the decoder is shown."""
    side = min(PATCHES, record.height, record.width)
    colours = initial_latents(0, (record.channels, side, side))
    rows = np.arange(record.height) * side // record.height
    columns = np.arange(record.width) * side // record.width
    shown: np.ndarray = colours[:, rows[:, None], columns[None]][None]
    return shown


def fit_linear(latents: np.ndarray, image: np.ndarray, pixels_per_latent: int) -> LinearPreview:
    """Least squares from latents (1, C, H, W) to the mean colour of the pixels (1, 3, f H, f W) below each."""
    _, channels, height, width = latents.shape
    factor = pixels_per_latent
    means = image.reshape(3, height, factor, width, factor).mean(axis=(2, 4), dtype=np.float32).clip(-1, 1)
    design = np.concatenate([latents.reshape(channels, -1), np.ones((1, height * width), np.float32)])
    weight, *_ = np.linalg.lstsq(design.T.astype(np.float64), means.reshape(3, -1).T.astype(np.float64), rcond=None)
    return LinearPreview(weight)


class Predicted(Protocol):
    """What is looked at of a step: its number, and the latents that it predicts."""

    @property
    def index(self) -> int:
        """From 0."""
        ...

    @property
    def denoised(self) -> np.ndarray:
        """Float32 (1, C, H, W)."""
        ...


class Previews:
    """Watches one run: called with each step, it keeps a picture of what the step predicts.

    decode: from latents of the loop to an image, by the decoder, or by the component for previews if `kind` is "tiny".
    settings: of the picture that is drawn.
    """

    def __init__(
        self,
        decode: Callable[[np.ndarray], np.ndarray],
        record: LatentsRecord,
        settings: Settings,
        kind: PreviewKind = "linear",
    ) -> None:
        """Raises `GateError` if the decoder gives NaN."""
        self.pictures: list[Picture] = []
        self._settings = settings
        self._image = decode
        if kind == "linear":
            shown = patches(record)
            self._image = fit_linear(shown, decode(shown), record.pixels_per_latent).image

    def __call__(self, step: Predicted) -> None:
        """Keep the picture that `step` predicts."""
        settings = {**self._settings, "preview_of_step": step.index + 1}
        self.pictures.append(Picture(to_pixels(self._image(step.denoised)), settings))
