"""Which class walks which record, and the start of a walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sfmobile.bundle.samplers import (
    DDIMRecord,
    DiffusionRecord,
    DPMSinglestepRecord,
    DPMSolverRecord,
    EulerAncestralRecord,
    EulerRecord,
    HeunRecord,
    LCMRecord,
    PNDMRecord,
    SamplerRecord,
    TCDRecord,
    UniPCRecord,
)
from sfmobile.errors import UsageError
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.ddim import DDIM
from sfmobile.sampling.samplers.dpm_multistep import DPMMultistep
from sfmobile.sampling.samplers.dpm_singlestep import DPMSinglestep
from sfmobile.sampling.samplers.euler import Euler
from sfmobile.sampling.samplers.euler_ancestral import EulerAncestral
from sfmobile.sampling.samplers.heun import Heun
from sfmobile.sampling.samplers.lcm import LCM
from sfmobile.sampling.samplers.pndm import PNDM
from sfmobile.sampling.samplers.sampler import Sampler
from sfmobile.sampling.samplers.tcd import TCD
from sfmobile.sampling.samplers.unipc import UniPC

SAMPLERS: dict[type[DiffusionRecord], Callable[[Any, int, Noise], Sampler]] = {
    DDIMRecord: DDIM,
    PNDMRecord: PNDM,
    EulerRecord: Euler,
    EulerAncestralRecord: EulerAncestral,
    HeunRecord: Heun,
    DPMSolverRecord: DPMMultistep,
    DPMSinglestepRecord: DPMSinglestep,
    UniPCRecord: UniPC,
    LCMRecord: LCM,
    TCDRecord: TCD,
}


def start(record: SamplerRecord, steps: int, noise: Noise | None = None) -> Sampler:
    """A walk in `steps` steps by the constants of `record`, its noise from `noise` (seed 0 without one).

    Raises `UsageError` for steps that this sampler can't take, and for a model it can't walk.
    """
    return SAMPLERS[type(record)](record, steps, noise or Noise(0))


def start_within(
    record: SamplerRecord, steps: int, strength: float, noise: Noise | None = None, *, all_steps: bool = False
) -> Sampler:
    """A walk that a picture's latents enter, noised as much as `strength` (above 0, at most 1) says.

    Of `steps` the last whole `steps` * `strength` are walked, as diffusers' image-to-image pipeline does it; 1 walks
    all of them. all_steps: all are walked, of the `strength` least noisy timesteps that a consistency model was
    distilled on, as its own pipeline does it; samplers that know no distillation do as above.
    Raises `UsageError` for a strength that leaves no step, and as `start` does.
    """
    if not 0 < strength <= 1:
        raise UsageError(f"The strength {strength:g} makes no sense; expected above 0 (the picture) to 1 (noise).")
    if all_steps and isinstance(record, LCMRecord):
        return LCM(record, steps, noise or Noise(0), strength)
    if all_steps and isinstance(record, TCDRecord):
        return TCD(record, steps, noise or Noise(0), strength)
    sampler = start(record, steps, noise)
    walked = int(steps * strength)
    if walked < 1:
        raise UsageError(
            f"A strength of {strength:g} leaves none of {steps} steps; take at least {1 / steps:.2g}, or more steps."
        )
    sampler.begin((steps - walked) * sampler.calls_a_step)
    return sampler
