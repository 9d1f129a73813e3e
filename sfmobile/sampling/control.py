"""Control pictures: what ControlNets (arXiv 2302.05543) make of them, added to the UNet's skip connections.

As in diffusers: each ControlNet is called with what the UNet is called with, what it gives is multiplied by its scale
and added to the others', and it is left out before its start and behind its end, shares of the steps. A UNet that was
exported to take residuals gets zeros where nothing controls it, which is the picture without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sfmobile.bundle.manifest import Manifest
from sfmobile.checkpoint.source import CONTROL_PREFIX, file_and_scale
from sfmobile.errors import UsageError
from sfmobile.runtime.protocol import LoadedComponent
from sfmobile.sampling.given import PictureSource, read_given
from sfmobile.sampling.guidance import check_finite

# What a ControlNet takes of the inputs of a UNet's call.
TAKEN = ("latents", "time_embedding", "encoder_hidden_states")


@dataclass(frozen=True, eq=False)
class Control:
    """A control picture: float32 (1, 3, H, W) of the bundle's size, 0 black to 1 white, for the ControlNet `name`.

    scale: how much of it. start, end: the share of the steps before and behind which it is left out.
    """

    name: str
    picture: np.ndarray
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @property
    def component(self) -> str:
        """What the bundle calls the ControlNet."""
        return CONTROL_PREFIX + self.name

    def share(self, index: int, count: int) -> float:
        """Its scale at call `index` of `count`, 0 where it is left out (diffusers' `controlnet_keep`)."""
        left_out = index / count < self.start or (index + 1) / count > self.end
        return 0.0 if left_out else self.scale


def read_control(
    name: str, source: PictureSource, size: tuple[int, int], scale: float = 1.0, start: float = 0.0, end: float = 1.0
) -> tuple[Control, tuple[str, ...]]:
    """The control picture `source`, a file or pixels, brought to `size` (height, width); and in words what was done.

    Raises as `read_given` does.
    """
    given, notes = read_given(source, size)
    picture = np.ascontiguousarray(given.picture.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255))
    return Control(name, picture, scale, start, end), notes


def parse_control(text: str) -> tuple[str, str, float]:
    """`NAME=FILE[:scale]`, its parts. Raises `UsageError` for another form, or a scale that is no finite number."""
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise UsageError(f"--control {text} names no picture; expected NAME=FILE or NAME=FILE:SCALE, canny=edges.png.")
    return (name, *file_and_scale(rest, f"--control {text}"))


def check_controls(controls: Sequence[Control], manifest: Manifest) -> None:
    """Raise `UsageError` for a ControlNet that the bundle hasn't, a picture of another size, or a scale or share that
    means nothing."""
    condition = manifest.pipeline.residuals
    size = manifest.latents.picture_size
    names = [] if condition is None else [name.removeprefix(CONTROL_PREFIX) for name in condition.components]
    for control in controls:
        if control.name not in names:
            has = f"its are {', '.join(names)}" if names else "it has none"
            raise UsageError(
                f"'{manifest.name}' has no ControlNet '{control.name}' ({has}); export it with --control NAME=DIR."
            )
        if control.picture.shape != (1, 3, *size):
            raise UsageError(
                f"The control picture of '{control.name}' has the shape {control.picture.shape}; expected "
                f"{(1, 3, *size)}, 0 black to 1 white."
            )
        if not math.isfinite(control.scale):
            raise UsageError(f"The scale {control.scale} of '{control.name}' makes no sense; expected a number, 1 say.")
        if not 0 <= control.start < control.end <= 1:
            raise UsageError(
                f"'{control.name}' controls from {control.start} to {control.end} of the steps; expected a start below "
                "its end, both 0 to 1."
            )


@dataclass(frozen=True)
class Residuals:
    """What a UNet call takes of `controls`. load: the ControlNet of a component's name."""

    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    controls: Sequence[Control]
    load: Callable[[str], LoadedComponent]

    @classmethod
    def of(
        cls, manifest: Manifest, controls: Sequence[Control], load: Callable[[str], LoadedComponent]
    ) -> Residuals | None:
        """Those of a bundle, or None if its UNet takes none."""
        condition = manifest.pipeline.residuals
        if condition is None:
            return None
        shapes = {tensor.name: tensor.shape for tensor in manifest.components[manifest.pipeline.unet].inputs}
        return cls(condition.inputs, shapes, controls, load)

    def __call__(self, inputs: Mapping[str, np.ndarray], index: int, count: int) -> dict[str, np.ndarray]:
        """The residuals for a UNet call of these `inputs`, call `index` of `count`."""
        total: dict[str, np.ndarray] = {}
        taken = {name: inputs[name] for name in TAKEN}
        for control in self.controls:
            scale = np.float32(control.share(index, count))
            if scale == 0:
                continue
            found = self.load(control.component).predict({**taken, "picture": control.picture})
            for name in self.names:
                check_finite(found[name], f"ControlNet '{control.name}'")
                added = found[name] * scale
                total[name] = added if name not in total else total[name] + added
        return {name: total.get(name, np.zeros(self.shapes[name], np.float32)) for name in self.names}
