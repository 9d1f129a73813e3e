"""Latent consistency models' multistep sampling (arXiv 2310.04378, algorithm 3).

Every call predicts the picture, f = c_skip x + c_out x_0 with the boundary factors of its appendix, and noise of the
next timestep is put over it; the last prediction is the result. Timesteps are some of those of the distillation.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from sfmobile.bundle.samplers import LCMRecord, TCDRecord
from sfmobile.errors import UsageError
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.prediction import denoised
from sfmobile.sampling.samplers.sampler import Prediction, Sampler, check_steps
from sfmobile.sampling.samplers.schedule import alphas_cumprod, amplitudes, check_signal

# Standard deviation of the data, as the boundary factors take it (arXiv 2303.01469, appendix C).
SIGMA_DATA = 0.5


def distilled_timesteps(record: LCMRecord | TCDRecord, steps: int, share: float = 1.0) -> np.ndarray:
    """`steps` of the distillation's timesteps, from its last one on, falling, int64.

    share: of its timesteps, the least noisy ones, from which they are taken.

    Raises `UsageError` for steps that can't be taken.
    """
    check_steps(record, steps)
    distilled = record.original_inference_steps
    if steps > distilled:
        raise UsageError(
            f"Expected 1 to {distilled} steps, those this sampler's model was distilled on; found {steps}."
        )
    taken = int(distilled * share)
    if steps > taken:
        raise UsageError(
            f"A strength of {share:g} leaves {taken} of the {distilled} timesteps this sampler's model was distilled "
            f"on, too few for {steps} steps; take fewer, or a higher strength."
        )
    timesteps = np.arange(taken, 0, -1) * (record.num_train_timesteps // distilled) - 1
    return timesteps[np.floor(np.linspace(0, taken, steps, endpoint=False)).astype(np.int64)]


class LCM(Sampler):
    """One network call a step; draws between steps, so not in a single one."""

    stochastic: ClassVar[bool] = True

    def __init__(self, record: LCMRecord, steps: int, noise: Noise, share: float = 1.0) -> None:
        super().__init__(distilled_timesteps(record, steps, share), noise)
        self.record = record
        self.alphas_cumprod = alphas_cumprod(record)
        check_signal(record, self.alphas_cumprod, int(self.timesteps[0]))

    def _amplitudes(self) -> tuple[float, float]:
        return amplitudes(self.alphas_cumprod, int(self.timesteps[self.index]))

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        record, timestep = self.record, int(self.timesteps[self.index])
        a_t = float(self.alphas_cumprod[timestep])
        clean = denoised(record.prediction_type, output, x, math.sqrt(a_t), math.sqrt(1.0 - a_t))
        if record.clip_sample:
            clean = clean.clip(-record.clip_sample_range, record.clip_sample_range)
        scaled = timestep * record.timestep_scaling
        spread = scaled**2 + SIGMA_DATA**2
        consistent = (scaled / math.sqrt(spread)) * clean + (SIGMA_DATA**2 / spread) * x
        if self.index + 1 == self.calls:
            return Prediction(consistent, consistent)
        a_s = float(self.alphas_cumprod[self.timesteps[self.index + 1]])
        return Prediction(math.sqrt(a_s) * consistent + math.sqrt(1.0 - a_s) * self._draw(x), consistent)
