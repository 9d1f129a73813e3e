"""Samplers as records: the constants of what walks the noise down, discriminated by `kind`.

Neither how many steps to take nor how to guide is a sampler's: a pipeline has those defaults.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from sfmobile.files import StrictModel


class DDIMRecord(StrictModel):
    """Constants of DDIM (arXiv 2010.02502), named as in diffusers' scheduler configs."""

    kind: Literal["ddim"] = "ddim"
    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    prediction_type: Literal["epsilon", "v_prediction"]
    timestep_spacing: Literal["leading", "trailing", "linspace"]
    steps_offset: int
    set_alpha_to_one: bool
    clip_sample: bool
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool


SamplerRecord: TypeAlias = DDIMRecord
