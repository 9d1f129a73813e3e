"""The noise schedule that all samplers share: betas, signal powers, noise levels, and which of them a run visits.

x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e with a_t = `alphas_cumprod[t]`. Divided by its signal, x_t / sqrt(a_t) is
x_0 + sigma_t e with the noise level sigma_t = sqrt((1 - a_t) / a_t), in which Euler, Heun and the DPM solvers think;
lambda_t = -log(sigma_t) is half the log signal-to-noise ratio.

Betas, signal powers and noise levels of training are rounded to float32, as torch has them; everything computed from
them is in double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfmobile.bundle.samplers import DiffusionRecord, SigmaSchedule, TimestepSpacing
from sfmobile.errors import UsageError
from sfmobile.sampling.samplers.sampler import check_steps

# Behind zero-SNR rescaling the last noise level is infinite; what is walked is that of the smallest half float.
LEAST_SIGNAL = 2.0**-24
KARRAS_RHO = 7.0


def betas(record: DiffusionRecord) -> np.ndarray:
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


def alphas_cumprod(record: DiffusionRecord) -> np.ndarray:
    """Cumulative signal power of each training timestep, float32 (num_train_timesteps,)."""
    noise = betas(record)
    return cumulative(zero_snr_betas(noise) if record.rescale_betas_zero_snr else noise)


def cumulative(noise: np.ndarray) -> np.ndarray:
    """Products of 1 - beta, each rounded to float32 as torch has them: near t = 0 the last bit of a_t matters."""
    return np.cumprod(np.subtract(1.0, noise, dtype=np.float32), dtype=np.float64).astype(np.float32)


def zero_snr_betas(noise: np.ndarray) -> np.ndarray:
    """Betas whose last timestep holds no signal while the first keeps its own (arXiv 2305.08891, algorithm 1)."""
    roots = np.sqrt(cumulative(noise))
    first, last = roots[0], roots[-1]
    signal = np.square((roots - last) * (first / (first - last)))
    alphas = np.concatenate([signal[:1], signal[1:] / signal[:-1]])
    rescaled: np.ndarray = np.subtract(1.0, alphas, dtype=np.float32)
    return rescaled


def training_sigmas(record: DiffusionRecord) -> np.ndarray:
    """Noise level of each training timestep, rising, float32 (num_train_timesteps,), all finite."""
    signal = alphas_cumprod(record)
    if record.rescale_betas_zero_snr:
        signal[-1] = LEAST_SIGNAL
    sigmas: np.ndarray = np.sqrt((np.float32(1.0) - signal) / signal)
    return sigmas


def spaced(trained: int, steps: int, spacing: TimestepSpacing, offset: int) -> np.ndarray:
    """`steps` of `trained` timesteps, falling (arXiv 2305.08891, table 2). float64; linspace gives fractions."""
    if spacing == "linspace":
        return np.linspace(0, trained - 1, steps)[::-1]
    if spacing == "leading":
        return np.arange(steps, dtype=np.float64)[::-1] * (trained // steps) + offset
    # The quotients are those of the first `steps`: rounding errors in arange can't add one.
    timesteps: np.ndarray = np.round(np.arange(trained, 0, -(trained / steps))[:steps]) - 1
    return timesteps


def amplitudes(signal: np.ndarray, timestep: int) -> tuple[float, float]:
    """Amplitudes of signal and noise at a trained timestep."""
    power = float(signal[timestep])
    return math.sqrt(power), math.sqrt(1.0 - power)


def check_start(record: DiffusionRecord, steps: int, first: float) -> None:
    """Raise `UsageError` if a run would start at a timestep beyond training."""
    if first >= record.num_train_timesteps:
        raise UsageError(
            f"{steps} steps with leading spacing and an offset of {record.steps_offset} start at timestep "
            f"{first:.0f}, beyond the last one trained, {record.num_train_timesteps - 1}; take fewer steps."
        )


def check_signal(record: DiffusionRecord, signal: np.ndarray, first: int) -> None:
    """Raise `UsageError` if a run would start where an epsilon prediction sees no signal to scale up."""
    if record.prediction_type == "epsilon" and signal[first] == 0:
        raise UsageError(
            f"At timestep {first} this model's latents are pure noise, from which an epsilon prediction "
            "can't start; use leading spacing or a v-prediction model."
        )


def walked_timesteps(record: DiffusionRecord, steps: int) -> np.ndarray:
    """Timesteps of a run in `steps` steps that walks from one trained timestep to another, falling, int64.

    Raises `UsageError` for steps that can't be taken.
    """
    check_steps(record, steps)
    timesteps = spaced(record.num_train_timesteps, steps, record.timestep_spacing, record.steps_offset)
    check_start(record, steps, timesteps[0])
    return timesteps.round().astype(np.int64)


def earlier_timesteps(record: DiffusionRecord, timesteps: np.ndarray) -> np.ndarray:
    """Where each of `walked_timesteps` leads to, int64; below 0 is the picture.

    Leading and trailing runs step by a fixed distance, as diffusers does: trailing ones can miss their own next
    timestep by one. In linspace runs that distance would miss by up to a tenth of the way (8 steps of 1000: by 18
    of 143 timesteps, each time), so that every call sees latents noisier than it is told: diffusers has this as an
    open bug. Here a linspace run walks its own list.
    """
    if record.timestep_spacing == "linspace":
        return np.append(timesteps[1:], -1)
    return timesteps - record.num_train_timesteps // len(timesteps)


def karras(sigma_max: float, sigma_min: float, steps: int) -> np.ndarray:
    """`steps` noise levels between two, falling (arXiv 2206.00364, equation 5), float64."""
    high, low = sigma_max ** (1 / KARRAS_RHO), sigma_min ** (1 / KARRAS_RHO)
    levels: np.ndarray = (high + np.linspace(0, 1, steps) * (low - high)) ** KARRAS_RHO
    return levels


def exponential(sigma_max: float, sigma_min: float, steps: int) -> np.ndarray:
    """`steps` noise levels between two, falling, their logarithms evenly spaced, float64."""
    levels: np.ndarray = np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), steps))
    return levels


def timesteps_of(sigmas: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Fractional timesteps at which training had these noise levels, by their logarithms, float64."""
    logarithms = np.log(np.maximum(sigmas, 1e-10)), np.log(trained.astype(np.float64))
    found: np.ndarray = np.interp(*logarithms, np.arange(len(trained)))
    return found


def curve(schedule: SigmaSchedule, sigma_max: float, sigma_min: float, steps: int) -> np.ndarray:
    """Noise levels of a run that isn't tied to trained timesteps, falling, float64."""
    # "lu": evenly in lambda (arXiv 2206.00927, section 3.4), which is evenly in log sigma.
    return (karras if schedule == "karras" else exponential)(sigma_max, sigma_min, steps)


@dataclass(frozen=True)
class Levels:
    """What a run in noise levels visits.

    timesteps: what each call is told, (n,). sigmas: float32 (n + 1,), falling: each call's and the one it ends at.
    """

    timesteps: np.ndarray
    sigmas: np.ndarray


FinalSigma = Literal["zero", "sigma_min"]


def last_sigma(final: FinalSigma, trained: np.ndarray) -> float:
    """The noise level that the last step leads to."""
    return 0.0 if final == "zero" else float(trained[0])


def levels(
    record: DiffusionRecord,
    steps: int,
    schedule: SigmaSchedule = "timesteps",
    ends: tuple[float | None, float | None] = (None, None),
    final: FinalSigma = "zero",
) -> Levels:
    """Levels of a run of Euler's kind: calls between trained timesteps are told fractional ones, float32.

    ends: largest and smallest level of a curve; None: of the spaced timesteps.
    Raises `UsageError` for steps that can't be taken.
    """
    check_steps(record, steps)
    timesteps = spaced(record.num_train_timesteps, steps, record.timestep_spacing, record.steps_offset)
    check_start(record, steps, timesteps[0])
    timesteps = timesteps.astype(np.float32).astype(np.float64)
    trained = training_sigmas(record)
    sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    if schedule != "timesteps":
        sigmas = curve(schedule, float(ends[0] or sigmas[0]), float(ends[1] or sigmas[-1]), steps)
        timesteps = timesteps_of(sigmas, trained)
    return Levels(timesteps.astype(np.float32), np.append(sigmas, last_sigma(final, trained)).astype(np.float32))


def solver_levels(
    record: DiffusionRecord,
    steps: int,
    schedule: SigmaSchedule = "timesteps",
    final: FinalSigma = "zero",
    lambda_min: float | None = None,
) -> Levels:
    """Levels of a run of the DPM solvers' kind: every call is told a trained timestep, int64.

    The spaced timesteps are one more than steps, of which the last isn't visited; a curve goes over all of training.
    Raises `UsageError` for steps that can't be taken.
    """
    check_steps(record, steps)
    trained = training_sigmas(record)
    if schedule == "timesteps":
        told = solver_timesteps(record, steps, trained, lambda_min)
        check_start(record, steps, told[0])
        sigmas = np.interp(told, np.arange(len(trained)), trained)
    else:
        sigmas = curve(schedule, float(trained[-1]), float(trained[0]), steps)
        told = timesteps_of(sigmas, trained)
        rounded = schedule in ("karras", "lu") and record.beta_schedule != "squaredcos_cap_v2"
        told = told.round() if rounded else truncated(told)
    found = np.append(sigmas, last_sigma(final, trained)).astype(np.float32)
    if not np.all(np.diff(found[:steps]) < 0):
        raise UsageError(
            f"{steps} steps of this sampler would visit a noise level twice; with {record.timestep_spacing} spacing "
            f"over {record.num_train_timesteps} timesteps take fewer."
        )
    return Levels(told.astype(np.int64), found)


def truncated(timesteps: np.ndarray) -> np.ndarray:
    """Whole timesteps below fractional ones, float64.

    diffusers truncates numbers that are whole but for their rounding errors: its first timestep of such a curve is
    998 of 1000 for Stable Diffusion's betas, and 999 for others. Taking a little off gives 998 on every machine.
    """
    whole: np.ndarray = np.trunc(np.maximum(timesteps - 1e-6, 0.0))
    return whole


def solver_timesteps(
    record: DiffusionRecord, steps: int, trained: np.ndarray, lambda_min: float | None = None
) -> np.ndarray:
    """Timesteps of `solver_levels`, float64 of whole numbers; none has a lambda below `lambda_min`."""
    count = record.num_train_timesteps
    if lambda_min is not None:
        # Of the levels, falling in lambda, the noisiest below the bound are left out.
        count -= int(np.searchsorted(-np.log(trained[::-1].astype(np.float64)), lambda_min))
    if record.timestep_spacing == "linspace":
        return np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
    if record.timestep_spacing == "leading":
        distance = count // (steps + 1)
        return np.arange(1, steps + 1, dtype=np.float64)[::-1] * distance + record.steps_offset
    return np.round(np.arange(count, 0, -(record.num_train_timesteps / steps))[:steps]) - 1
