"""DDIM (arXiv 2010.02502) with eta = 0, for noise- and v-prediction.

With x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, where a_t is `alphas_cumprod[t]`, one step predicts x_0 and the noise e from
the network's output and walks the straight line to the earlier timestep s (equation 12 with sigma = 0):

    x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) e

epsilon:       e is the output,  x_0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t)
v_prediction:  v = sqrt(a_t) e - sqrt(1 - a_t) x_0 (arXiv 2202.00512), so
               x_0 = sqrt(a_t) x_t - sqrt(1 - a_t) v,   e = sqrt(a_t) v + sqrt(1 - a_t) x_t
Timestep spacings and the zero-SNR rescaling are those of arXiv 2305.08891 (tables 2, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.errors import UsageError


@dataclass(frozen=True)
class Prediction:
    """What one network output says: the latents at the earlier timestep, and the denoised latents x_0."""

    latents: np.ndarray
    denoised: np.ndarray


class DDIM:
    """The sampler for one set of constants; holds no state between steps."""

    def __init__(self, record: DDIMRecord) -> None:
        self.record = record
        self.alphas_cumprod = alphas_cumprod(record)
        self.final_alpha_cumprod = np.float32(1.0) if record.set_alpha_to_one else self.alphas_cumprod[0]

    def timesteps(self, steps: int) -> np.ndarray:
        """Timesteps of a run in `steps` steps, falling, int64.

        Raises `UsageError` if `steps` isn't in 1 to `num_train_timesteps`, or if the run would start where an
        epsilon-predicting network sees no signal to scale up.
        """
        record = self.record
        trained = record.num_train_timesteps
        if not 1 <= steps <= trained:
            raise UsageError(f"Expected 1 to {trained} steps, the timesteps this model was trained on; found {steps}.")
        if record.timestep_spacing == "linspace":
            timesteps = np.linspace(0, trained - 1, steps).round()[::-1].astype(np.int64)
        elif record.timestep_spacing == "leading":
            timesteps = np.arange(steps, dtype=np.int64)[::-1] * (trained // steps) + record.steps_offset
        else:
            timesteps = np.round(np.arange(trained, 0, -(trained / steps))).astype(np.int64) - 1
        if timesteps[0] >= trained:
            raise UsageError(
                f"{steps} steps with leading spacing and an offset of {record.steps_offset} start at timestep "
                f"{timesteps[0]}, beyond the last one trained, {trained - 1}; take fewer steps."
            )
        if record.prediction_type == "epsilon" and self.alphas_cumprod[timesteps[0]] == 0:
            raise UsageError(
                f"At timestep {timesteps[0]} this model's latents are pure noise, from which an epsilon prediction "
                "can't start; use leading spacing or a v-prediction model."
            )
        return timesteps

    def step(self, model_output: np.ndarray, timestep: int, latents: np.ndarray, steps: int) -> Prediction:
        """One step of a run in `steps` steps: from `latents` at `timestep` to the next earlier one.

        model_output and latents have one shape and are computed with in float32; so is the result.
        """
        record = self.record
        earlier = timestep - record.num_train_timesteps // steps
        a_t = self.alphas_cumprod[timestep]
        a_s = self.alphas_cumprod[earlier] if earlier >= 0 else self.final_alpha_cumprod
        signal, noise = np.sqrt(a_t), np.sqrt(np.float32(1.0) - a_t)
        x, output = np.asarray(latents, np.float32), np.asarray(model_output, np.float32)
        if record.prediction_type == "epsilon":
            epsilon = output
            denoised = (x - noise * epsilon) / signal
        else:
            denoised = signal * x - noise * output
            epsilon = signal * output + noise * x
        if record.clip_sample:
            denoised = denoised.clip(-record.clip_sample_range, record.clip_sample_range)
        return Prediction(np.sqrt(a_s) * denoised + np.sqrt(np.float32(1.0) - a_s) * epsilon, denoised)


def alphas_cumprod(record: DDIMRecord) -> np.ndarray:
    """Cumulative signal power of each training timestep, float32 (num_train_timesteps,)."""
    noise = betas(record)
    return cumulative(zero_snr_betas(noise) if record.rescale_betas_zero_snr else noise)


def cumulative(noise: np.ndarray) -> np.ndarray:
    """Products of 1 - beta, each rounded to float32 as torch has them: near t = 0 the last bit of a_t matters."""
    return np.cumprod(np.subtract(1.0, noise, dtype=np.float32), dtype=np.float64).astype(np.float32)


def betas(record: DDIMRecord) -> np.ndarray:
    """Noise variance added at each training timestep, float32 (num_train_timesteps,)."""
    count = record.num_train_timesteps
    if record.beta_schedule == "linear":
        return np.linspace(record.beta_start, record.beta_end, count).astype(np.float32)
    if record.beta_schedule == "scaled_linear":
        return np.square(np.linspace(record.beta_start**0.5, record.beta_end**0.5, count)).astype(np.float32)
    # "squaredcos_cap_v2": alpha-bar follows a squared cosine (arXiv 2102.09672, equation 17), each beta at most 0.999.
    times = np.arange(count + 1) / count
    alpha_bar = np.square(np.cos((times + 0.008) / 1.008 * np.pi / 2))
    noise: np.ndarray = np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999).astype(np.float32)
    return noise


def zero_snr_betas(noise: np.ndarray) -> np.ndarray:
    """Betas whose last timestep holds no signal while the first keeps its own (arXiv 2305.08891, algorithm 1)."""
    roots = np.sqrt(cumulative(noise))
    first, last = roots[0], roots[-1]
    signal = np.square((roots - last) * (first / (first - last)))
    alphas = np.concatenate([signal[:1], signal[1:] / signal[:-1]])
    rescaled: np.ndarray = np.subtract(1.0, alphas, dtype=np.float32)
    return rescaled
