"""The sizes that Stable Diffusion XL is told of a picture (arXiv 2307.01952, section 2.2), and its added embedding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfmobile.bundle.manifest import Manifest, TimeEmbeddingRecord
from sfmobile.bundle.pipeline import AddedEmbeddingCondition
from sfmobile.errors import UsageError
from sfmobile.sampling.time_embedding import sinusoid

# No picture that a model was trained on is larger.
LARGEST_SIDE = 16_384


@dataclass(frozen=True)
class Sizes:
    """original, target: (height, width) in pixels, the drawn picture's without them. crop: (top, left).

    A small original is drawn as if enlarged, a crop off zero as if cut.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None

    def numbers(self, picture: tuple[int, int]) -> tuple[int, ...]:
        """The six that the model is told, for a picture of (height, width): diffusers' `add_time_ids`."""
        return (*(self.original or picture), *self.crop, *(self.target or picture))

    def settings(self) -> dict[str, str | int | float]:
        """What a drawing's metadata says of them: those that aren't the picture's own."""
        named = {"original_size": self.original, "target_size": self.target}
        found: dict[str, str | int | float] = {
            name: f"{size[0]}x{size[1]}" for name, size in named.items() if size is not None
        }
        return found | ({"crop": f"{self.crop[0]}x{self.crop[1]}"} if self.crop != (0, 0) else {})


# The picture's own, not cropped.
OWN_SIZES = Sizes()


def check_sizes(sizes: Sizes, manifest: Manifest) -> None:
    """Raise `UsageError` for sizes that mean nothing, and for a model that isn't told any."""
    if sizes == OWN_SIZES:
        return
    if manifest.pipeline.added is None:
        raise UsageError(
            f"'{manifest.name}' isn't told the sizes of pictures, as Stable Diffusion XL is; leave --original-size, "
            "--crop and --target-size out."
        )
    for option, pair, least in (
        ("--original-size", sizes.original, 1),
        ("--crop", sizes.crop, 0),
        ("--target-size", sizes.target, 1),
    ):
        if pair is not None and not all(least <= side <= LARGEST_SIDE for side in pair):
            raise UsageError(
                f"{option} {pair[0]}x{pair[1]} is impossible; expected pixels of {least} to {LARGEST_SIDE} each."
            )


def added_embedding(
    condition: AddedEmbeddingCondition, pooled: np.ndarray, numbers: tuple[int, ...], time: TimeEmbeddingRecord
) -> np.ndarray:
    """What the UNet takes: `pooled` (1, P, 1, 1) and the sinusoids of the sizes behind it, float32 (1, A, 1, 1)."""
    sizes = sinusoid([float(number) for number in numbers], time.model_copy(update={"dimension": condition.dimension}))
    return np.concatenate([pooled.astype(np.float32), sizes.reshape(1, -1, 1, 1)], axis=1)
