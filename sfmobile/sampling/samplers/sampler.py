"""What every sampler is: one walk from noise to denoised latents, a network call at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sfmobile.bundle.samplers import DiffusionRecord
from sfmobile.errors import UsageError
from sfmobile.sampling.noise import Noise


@dataclass(frozen=True)
class Prediction:
    """What one network output says: the latents for the next call, and the denoised latents x_0."""

    latents: np.ndarray
    denoised: np.ndarray


class Sampler(ABC):
    """One walk with the constants of a record; it holds the history that its formulas need.

        latents = sampler.noise_scale * unit normal noise
        for timestep in sampler.timesteps:
            output = network(sampler.model_input(latents), timestep)
            latents = sampler.step(output, latents).latents

    or from somewhere along the way, where a picture's latents come in:

        sampler.begin(call)
        latents = sampler.noised(clean, unit normal noise)
        for timestep in sampler.timesteps[call:]: ...

    timesteps: one for each network call, in order; int64, or float32 where a noise level lies between two timesteps.
    noise_scale: standard deviation of the latents that the walk starts from.

    Latents and outputs are float32 and stay so. What is a number for the whole step (noise levels, coefficients) is
    computed in double precision and rounded once, when it meets the latents, so that Python and Swift agree to the
    last bits; DDIM alone keeps to float32 throughout, as its pictures have always been drawn.
    """

    # Draws noise after the start: the same seed gives another picture with another sampler.
    stochastic: ClassVar[bool] = False
    # Network calls that one step takes, but for those that begin or end a walk.
    calls_a_step: ClassVar[int] = 1

    def __init__(self, timesteps: np.ndarray, noise: Noise, noise_scale: float = 1.0) -> None:
        self.timesteps = timesteps
        self.noise_scale = noise_scale
        self.index = 0
        self.begun = 0
        self._noise = noise

    @property
    def calls(self) -> int:
        """How many network calls the walk makes."""
        return len(self.timesteps)

    def begin(self, call: int) -> None:
        """Let the walk begin at its network call `call` instead of its first. Raises `UsageError` if it can't."""
        self.begun = self.index = call

    def noised(self, clean: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """The denoised latents `clean` as they would be before the next call, with `unit` normal noise; behind the
        last call they are themselves."""
        if self.index >= self.calls:
            return clean
        signal, noise = self._amplitudes()
        return np.float32(signal) * clean + np.float32(noise) * unit

    @abstractmethod
    def _amplitudes(self) -> tuple[float, float]:
        """Of signal and noise in the latents before call `self.index`."""

    def model_input(self, latents: np.ndarray) -> np.ndarray:
        """What the network takes for `latents` at the next call: they, scaled to the variance it was trained on."""
        return latents

    def step(self, model_output: np.ndarray, latents: np.ndarray) -> Prediction:
        """From `latents` and the network's output for them to the latents of the next call.

        Raises `UsageError` behind the last call.
        """
        if self.index >= self.calls:
            raise UsageError(f"This walk has {self.calls} network calls, which have all been made; start another.")
        prediction = self._step(np.asarray(model_output, np.float32), np.asarray(latents, np.float32))
        self.index += 1
        return prediction

    @abstractmethod
    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        """The step of call `self.index`."""

    def _draw(self, like: np.ndarray) -> np.ndarray:
        """The seed's next noise of that shape."""
        return self._noise.normal(like.shape)


def check_steps(record: DiffusionRecord, steps: int) -> None:
    """Raise `UsageError` unless `steps` is in 1 to the number of timesteps trained."""
    if not 1 <= steps <= record.num_train_timesteps:
        raise UsageError(
            f"Expected 1 to {record.num_train_timesteps} steps, the timesteps this model was trained on; found {steps}."
        )
