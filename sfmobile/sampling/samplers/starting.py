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
