"""What a picture that is given changes of a run: what is drawn from the seed, where the walk begins, what stands behind
the latents, and what is put back after each step.

Each of diffusers' pipelines in a class of its own, the noise drawn in the order in which that pipeline draws it:

    FromText        StableDiffusionPipeline
    FromPicture     StableDiffusionImg2ImgPipeline (arXiv 2108.01073)
    Repainting      StableDiffusionInpaintPipeline with a UNet of latents alone (arXiv 2201.09865, not resampling)
    Inpainting      the same with a UNet that takes the mask and the masked picture (arXiv 2112.10752, section 4.5)
    Editing         StableDiffusionInstructPix2PixPipeline (arXiv 2211.09800)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from typing_extensions import override

from sfmobile.bundle.manifest import Manifest
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.given import DEFAULT_PICTURE_GUIDANCE, DEFAULT_STRENGTH, Given, latent_mask, pasted, to_image
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.sampler import Sampler

# An image float32 (1, 3, H, W), -1 to 1, to its latents' means and log variances (1, 2 C, h, w).
Encode: TypeAlias = Callable[[np.ndarray], np.ndarray]
# Log variances are held to these, as in training.
LEAST_LOGVAR, MOST_LOGVAR = -30.0, 20.0


class FromText:
    """A run from noise alone, and what all others change of it.

    strength: where the walk begins, 1 at its first call. picture_guidance: the scale of guidance by a picture, for
    models that are guided so.
    """

    strength = 1.0
    picture_guidance: float | None = None

    def draw(self, noise: Noise, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the run's noise from the seed; returns the unit noise of `shape` that the walk starts with."""
        return noise.normal(shape)

    def prepare(self, encode: Encode) -> None:
        """Encode what is given, before the walk."""

    def begin(self, sampler: Sampler, unit: np.ndarray) -> np.ndarray:
        """Latents before the first call."""
        return unit * np.float32(sampler.noise_scale)

    def behind(self) -> np.ndarray | None:
        """What the UNet takes behind the latents, (1, C', h, w)."""
        return None

    def settle(self, sampler: Sampler, latents: np.ndarray) -> np.ndarray:
        """The latents behind a step, with what is known of them put back."""
        return latents

    def finish(self, pixels: np.ndarray) -> np.ndarray:
        """The drawn pixels uint8 (H, W, 3), with what is to stay put back."""
        return pixels

    def settings(self) -> dict[str, str | int | float]:
        """What a drawing's metadata says of it."""
        return {}


class FromPicture(FromText):
    """The picture's latents, noised, are where the walk begins."""

    default_strength = DEFAULT_STRENGTH

    def __init__(self, given: Given, manifest: Manifest) -> None:
        self.given = given
        self.strength = self.default_strength if given.strength is None else given.strength
        self._factor = np.float32(manifest.latents.scaling_factor)
        self._pixels_per_latent = manifest.latents.pixels_per_latent
        self._posterior = self._unit = self.clean = np.zeros(())

    @override
    def draw(self, noise: Noise, shape: tuple[int, ...]) -> np.ndarray:
        self._posterior = noise.normal(shape)
        self._unit = noise.normal(shape)
        return self._unit

    @override
    def prepare(self, encode: Encode) -> None:
        self.clean = self._factor * sampled(encode(to_image(self.given.picture)), self._posterior)

    @override
    def begin(self, sampler: Sampler, unit: np.ndarray) -> np.ndarray:
        self._unit = unit
        return sampler.noised(self.clean, unit)

    @override
    def settings(self) -> dict[str, str | int | float]:
        return {**self.given.settings(), "strength": self.strength}


class Repainting(FromPicture):
    """Latents that the mask doesn't cover are the picture's, noised as much as the step's, at every step."""

    default_strength = 1.0

    @override
    def prepare(self, encode: Encode) -> None:
        super().prepare(encode)
        assert self.given.mask is not None  # `task_of` chose this class for it
        self._mask = latent_mask(self.given.mask, self._pixels_per_latent)

    @override
    def begin(self, sampler: Sampler, unit: np.ndarray) -> np.ndarray:
        if self.strength < 1:
            return super().begin(sampler, unit)
        self._unit = unit
        return unit * np.float32(sampler.noise_scale)

    @override
    def settle(self, sampler: Sampler, latents: np.ndarray) -> np.ndarray:
        known = sampler.noised(self.clean, self._unit)
        settled: np.ndarray = (np.float32(1) - self._mask) * known + self._mask * latents
        return settled

    @override
    def finish(self, pixels: np.ndarray) -> np.ndarray:
        return pasted(pixels, self.given)


class Inpainting(Repainting):
    """The UNet takes the mask, and the latents of the picture without what it covers, behind the noisy ones."""

    @override
    def draw(self, noise: Noise, shape: tuple[int, ...]) -> np.ndarray:
        unit = super().draw(noise, shape) if self.strength < 1 else noise.normal(shape)
        self._masked_posterior = noise.normal(shape)
        return unit

    @override
    def prepare(self, encode: Encode) -> None:
        mask = self.given.mask
        assert mask is not None  # `task_of` refused a run without one
        self._mask = latent_mask(mask, self._pixels_per_latent)
        image = to_image(self.given.picture)
        if self.strength < 1:
            self.clean = self._factor * sampled(encode(image), self._posterior)
        masked = image * (~mask)[None, None].astype(np.float32)
        self._masked = self._factor * sampled(encode(masked), self._masked_posterior)

    @override
    def behind(self) -> np.ndarray | None:
        behind: np.ndarray = np.concatenate([self._mask, self._masked], axis=1)
        return behind

    @override
    def settle(self, sampler: Sampler, latents: np.ndarray) -> np.ndarray:
        return latents


class Editing(FromText):
    """The UNet takes the picture's latents, not scaled, behind the noisy ones; guidance is by text and by picture."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.picture_guidance = DEFAULT_PICTURE_GUIDANCE if given.picture_guidance is None else given.picture_guidance
        self._picture = np.zeros(())

    @override
    def prepare(self, encode: Encode) -> None:
        self._picture = mode(encode(to_image(self.given.picture)))

    @override
    def behind(self) -> np.ndarray | None:
        return self._picture

    @override
    def settings(self) -> dict[str, str | int | float]:
        assert self.picture_guidance is not None
        return {**self.given.settings(), "picture_guidance": self.picture_guidance}


def mode(moments: np.ndarray) -> np.ndarray:
    """The likeliest latents (1, C, h, w) of means and log variances (1, 2 C, h, w)."""
    return moments[:, : moments.shape[1] // 2]


def sampled(moments: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Latents (1, C, h, w) drawn with `unit` normal noise from the distribution of those moments."""
    logvar = np.clip(moments[:, moments.shape[1] // 2 :], LEAST_LOGVAR, MOST_LOGVAR)
    latents: np.ndarray = mode(moments) + np.exp(np.float32(0.5) * logvar) * unit
    return latents


def task_of(manifest: Manifest, given: Given | None) -> FromText:
    """The task of a run on this bundle, given this picture.

    Raises `UsageError` for a bundle of a task that sfmobile can't run, and for what the task needs and isn't given, or
    has no use for; `ArtifactError` for a bundle without the encoder that it takes.
    """
    task = manifest.pipeline.task
    check_runs(manifest)
    if given is None:
        needs = {
            "inpainting": "repaints what a mask covers; give a picture and its mask",
            "instructed-editing": "edits a picture; give one, and say in the prompt what to change",
        }.get(task)
        if needs is not None:
            raise UsageError(f"'{manifest.name}' {needs} (--image{', --mask' if task == 'inpainting' else ''}).")
        return FromText()
    _check_given(manifest, given)
    if task == "instructed-editing":
        return Editing(given)
    if task == "inpainting":
        return Inpainting(given, manifest)
    return FromPicture(given, manifest) if given.mask is None else Repainting(given, manifest)


def check_runs(manifest: Manifest) -> None:
    """Raise `UsageError` for a bundle of a task that sfmobile can't run."""
    if manifest.pipeline.task == "depth-to-image":
        raise UsageError(
            f"'{manifest.name}' is for {manifest.pipeline.task}, which sfmobile can't run yet; its components can "
            "be inspected, verified and benchmarked one by one."
        )


def _check_given(manifest: Manifest, given: Given) -> None:
    name, task = f"'{manifest.name}'", manifest.pipeline.task
    encoder = manifest.components.get(manifest.pipeline.encoder)
    if encoder is None:
        raise ArtifactError(
            f"{name} was exported without the image encoder, which a run from a picture takes; add it with "
            "`sfmobile export SOURCE -o BUNDLE --component encoder`."
        )
    size = manifest.latents.picture_size
    if encoder.inputs[0].shape[2:] != size:
        raise UsageError(
            f"{name} encodes pictures of {'x'.join(map(str, encoder.inputs[0].shape[2:]))} alone; draw in that size, "
            "or export another bundle for this one."
        )
    if given.picture.shape != (*size, 3) or (given.mask is not None and given.mask.shape != size):
        raise UsageError(
            f"{name} draws {size[0]}x{size[1]} pixels (height, width), and the picture has shape "
            f"{given.picture.shape}; read it with `read_given`."
        )
    if task == "inpainting" and given.mask is None:
        raise UsageError(f"{name} repaints what a mask covers; give one (--mask), white where to draw.")
    if task == "instructed-editing":
        if given.mask is not None:
            raise UsageError(f"{name} edits whole pictures and takes no mask; leave it out.")
        if given.strength is not None:
            raise UsageError(
                f"{name} draws from noise, guided by the picture; in place of a strength give --image-guidance."
            )
    elif given.picture_guidance is not None:
        raise UsageError(
            f"{name} isn't guided by pictures (--image-guidance is for models that edit); give a strength."
        )
