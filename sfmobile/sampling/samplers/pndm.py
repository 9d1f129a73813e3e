"""PNDM (arXiv 2202.09778): DDIM's step with a noise estimate of fourth order from several network outputs.

The transfer from t to s (the paper's equation 9) is DDIM's: x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) e. What stands for e:

    linear multistep (equation 12):  (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24, e_1 being the output one step ago, ...
    before there are four:           (23 e_0 - 16 e_1 + 5 e_2) / 12,  (3 e_0 - e_1) / 2
    the very first step (PLMS):      improved Euler: e at t, e at s reached with it, and again from t with their mean
    or pseudo Runge-Kutta (eq. 13):  (e_0 + 2 e_1 + 2 e_2 + e_3) / 6 at t, twice half-way, and at s, for three steps

The estimate is of network outputs, whatever they are: for a v-prediction, v is averaged, then turned into noise with
the latents of the step.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import numpy as np

from sfmobile.bundle.samplers import PNDMRecord
from sfmobile.errors import UsageError
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.prediction import denoised, noise
from sfmobile.sampling.samplers.sampler import Prediction, Sampler
from sfmobile.sampling.samplers.schedule import alphas_cumprod, amplitudes, check_signal, walked_timesteps

# Steps of four calls each that Runge-Kutta makes, and the weights of those calls.
RUNGE_KUTTA_STEPS = 3
RUNGE_KUTTA_WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


class PNDM(Sampler):
    """`steps` + 1 network calls without Runge-Kutta steps (a single step has one), `steps` + 9 with them."""

    def __init__(self, record: PNDMRecord, steps: int, noise: Noise) -> None:
        grid = walked_timesteps(record, steps)
        if not record.skip_prk_steps and steps <= RUNGE_KUTTA_STEPS:
            raise UsageError(
                f"Expected {RUNGE_KUTTA_STEPS + 1} steps or more, since this PNDM sampler begins with "
                f"{RUNGE_KUTTA_STEPS} of Runge-Kutta; found {steps}."
            )
        # As diffusers, by a fixed distance in every spacing: only leading runs meet their own timesteps.
        self.distance = record.num_train_timesteps // steps
        told = np.insert(grid, 1, grid[1:2])
        self.transfers = self._improved_euler(told, 0) if record.skip_prk_steps else self._runge_kutta(grid)
        super().__init__(np.array([call for call, _, _ in self.transfers], np.int64), noise)
        self.record = record
        self.alphas_cumprod = alphas_cumprod(record)
        self.final_alpha_cumprod = 1.0 if record.set_alpha_to_one else float(self.alphas_cumprod[0])
        check_signal(record, self.alphas_cumprod, int(grid[0]))
        self._outputs: deque[np.ndarray] = deque(maxlen=4)
        self._start = self._sum = np.zeros(())

    def begin(self, call: int) -> None:
        """As diffusers: of the list that tells the second timestep twice, so that improved Euler goes from the
        timestep before the first to the first; only if that is the one told twice, no step lies between its calls."""
        super().begin(call)
        if self.record.skip_prk_steps:
            self.transfers = self._improved_euler(self.timesteps, call)
        elif call:
            raise UsageError(
                "A PNDM sampler that begins with Runge-Kutta can't start from a picture; take another, ddim say."
            )

    def _improved_euler(self, told: np.ndarray, begun: int) -> list[tuple[int, int, int]]:
        """Of every call: the timestep it is told, and the two between which its step goes."""
        transfers = [(int(t), int(t), int(t) - self.distance) for t in told]
        for reached in map(int, told[begun + 1 : begun + 2]):
            transfers[begun + 1] = (reached, reached + self.distance, reached)
        return transfers

    def _runge_kutta(self, grid: np.ndarray) -> list[tuple[int, int, int]]:
        half = self.distance // 2
        transfers = []
        for t, s in pairwise(grid[: RUNGE_KUTTA_STEPS + 1]):
            middle = int(s) + half
            transfers += [(int(t), int(t), int(t) - half), (middle, int(t), middle)]
            transfers += [(middle, int(t), middle - half), (int(s), int(t), int(s))]
        return transfers + [(int(t), int(t), int(t) - self.distance) for t in grid[RUNGE_KUTTA_STEPS:]]

    def _amplitudes(self) -> tuple[float, float]:
        return amplitudes(self.alphas_cumprod, int(self.timesteps[self.index]))

    def _step(self, output: np.ndarray, x: np.ndarray) -> Prediction:
        kick_off = self.begun + 2 if self.record.skip_prk_steps else 4 * RUNGE_KUTTA_STEPS
        if self.index >= kick_off:
            self._outputs.append(output)
            estimate = linear_multistep(self._outputs)
        else:
            estimate, x = (self._improved if self.record.skip_prk_steps else self._weighted)(output, x)
        return self._transfer(estimate, x, *self.transfers[self.index][1:])

    def _improved(self, output: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Estimate and latents of the two calls of improved Euler."""
        if self.index == self.begun:
            self._outputs.append(output)
            self._start = x
            return output, x
        return (output + self._outputs[-1]) / 2, self._start

    def _weighted(self, output: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Estimate and latents of the four calls of a Runge-Kutta step, of which the last has the sum."""
        part = self.index % 4
        if part == 0:
            self._outputs.append(output)
            self._start, self._sum = x, np.zeros_like(output)
        self._sum = self._sum + RUNGE_KUTTA_WEIGHTS[part] * output
        return self._sum if part == 3 else output, self._start

    def _transfer(self, output: np.ndarray, x: np.ndarray, t: int, s: int) -> Prediction:
        a_t = float(self.alphas_cumprod[t])
        a_s = float(self.alphas_cumprod[s]) if s >= 0 else self.final_alpha_cumprod
        alpha, sigma = math.sqrt(a_t), math.sqrt(1.0 - a_t)
        clean = denoised(self.record.prediction_type, output, x, alpha, sigma)
        epsilon = noise(self.record.prediction_type, output, x, alpha, sigma)
        return Prediction(math.sqrt(a_s) * clean + math.sqrt(1.0 - a_s) * epsilon, clean)


def linear_multistep(outputs: deque[np.ndarray]) -> np.ndarray:
    """The Adams-Bashforth estimate from one to four outputs, the newest last (equation 12)."""
    newest = tuple(reversed(outputs))
    weights = {
        1: (1.0,),
        2: (3 / 2, -1 / 2),
        3: (23 / 12, -16 / 12, 5 / 12),
        4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    }[len(newest)]
    total: np.ndarray = weights[0] * newest[0]
    for weight, output in zip(weights[1:], newest[1:], strict=True):
        total = total + weight * output
    return total
