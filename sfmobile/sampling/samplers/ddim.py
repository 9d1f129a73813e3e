"""DDIM (arXiv 2010.02502), with eta.

With x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, where a_t is `alphas_cumprod[t]`, one step predicts x_0 and the noise e from
the network's output and walks to the earlier timestep s (equation 12), z being noise from the seed:

    x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - d^2) e + d z,   d = eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s)

With eta 0 the line is straight and nothing is drawn; eta 1 is DDPM (arXiv 2006.11239).
Timestep spacings and the zero-SNR rescaling are those of arXiv 2305.08891 (tables 2, algorithm 1).
"""

from __future__ import annotations

import numpy as np

from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import (
    alphas_cumprod,
    amplitudes,
    check_signal,
    earlier_timesteps,
    walked_timesteps,
)


class DDIM(Sampler):
    """All numbers are float32, coefficients too: the built-in model's pictures depend on their last bits."""

    def __init__(self, record: DDIMRecord, steps: int, noise: Noise) -> None:
        timesteps = walked_timesteps(record, steps)
        super().__init__(timesteps, noise)
        self.record = record
        self.earlier = earlier_timesteps(record, timesteps)
        self.alphas_cumprod = alphas_cumprod(record)
        self.final_alpha_cumprod = np.float32(1.0) if record.set_alpha_to_one else self.alphas_cumprod[0]
        check_signal(record, self.alphas_cumprod, int(timesteps[0]))

    def _amplitudes(self) -> tuple[float, float]:
        return amplitudes(self.alphas_cumprod, int(self.timesteps[self.index]))

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        record, one = self.record, np.float32(1.0)
        earlier = self.earlier[self.index]
        a_t = self.alphas_cumprod[self.timesteps[self.index]]
        a_s = self.alphas_cumprod[earlier] if earlier >= 0 else self.final_alpha_cumprod
        signal, noise = np.sqrt(a_t), np.sqrt(one - a_t)
        if record.prediction_type == "epsilon":
            epsilon = output
            denoised = (x - noise * epsilon) / signal
        elif record.prediction_type == "v_prediction":
            denoised = signal * x - noise * output
            epsilon = signal * output + noise * x
        else:
            denoised = output
            epsilon = (x - signal * denoised) / noise
        if record.clip_sample:
            denoised = denoised.clip(-record.clip_sample_range, record.clip_sample_range)
        if record.eta == 0:
            return Prediction(np.sqrt(a_s) * denoised + np.sqrt(one - a_s) * epsilon, denoised)
        deviation = np.float32(record.eta) * np.sqrt((one - a_s) / (one - a_t) * (one - a_t / a_s))
        direction = np.sqrt(np.maximum(one - a_s - deviation * deviation, np.float32(0.0)))
        return Prediction(np.sqrt(a_s) * denoised + direction * epsilon + deviation * self._draw(x), denoised)
