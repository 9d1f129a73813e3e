"""Constants of the samplers: what walks noise down to a picture, as records that both sides read from the manifest.

Names are those of diffusers' configs where a constant has one there. A record says all that its sampler needs: no side
adds a default of its own, and two records that are equal walk the same way. Neither how many steps to take nor how to
guide is a sampler's: a pipeline has those defaults.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, model_validator
from typing_extensions import Self

from sfmobile.files import StrictModel

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]
# Where the noise levels of a run come from: the training's own at the spaced timesteps, or a curve between two levels.
SigmaSchedule = Literal["timesteps", "karras", "exponential", "lu"]


class DiffusionRecord(StrictModel):
    """The diffusion process that a network was trained on, and which of its timesteps a run visits.

    beta_start, beta_end, beta_schedule: noise variance added by each of `num_train_timesteps`.
    rescale_betas_zero_snr: the last timestep holds no signal (arXiv 2305.08891, algorithm 1).
    prediction_type: what the network's output is: the noise, v (arXiv 2202.00512) or the denoised latents.
    timestep_spacing, steps_offset: arXiv 2305.08891, table 2; the offset is added to leading timesteps.
    """

    num_train_timesteps: int = Field(gt=1)
    beta_start: float
    beta_end: float
    beta_schedule: BetaSchedule
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing
    steps_offset: int = Field(ge=0)
    rescale_betas_zero_snr: bool = False


class DDIMRecord(DiffusionRecord):
    """DDIM (arXiv 2010.02502). eta: 0 walks without noise, 1 is DDPM."""

    kind: Literal["ddim"] = "ddim"
    set_alpha_to_one: bool
    clip_sample: bool
    clip_sample_range: float = 1.0
    eta: float = Field(default=0.0, ge=0, le=1)


class PNDMRecord(DiffusionRecord):
    """PNDM (arXiv 2202.09778). skip_prk_steps: linear multistep from the start (PLMS), without Runge-Kutta steps."""

    kind: Literal["pndm"] = "pndm"
    set_alpha_to_one: bool
    skip_prk_steps: bool = True


class EulerRecord(DiffusionRecord):
    """Euler steps in sigma (arXiv 2206.00364, algorithm 1).

    sigma_min, sigma_max: ends of a curve; None: of the spaced timesteps.
    """

    kind: Literal["euler"] = "euler"
    sigma_schedule: Literal["timesteps", "karras", "exponential"] = "timesteps"
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    final_sigma: Literal["zero", "sigma_min"] = "zero"


class EulerAncestralRecord(DiffusionRecord):
    """Euler steps to below the next sigma, and noise up to it."""

    kind: Literal["euler-ancestral"] = "euler-ancestral"


class HeunRecord(DiffusionRecord):
    """Heun's second-order steps in sigma (arXiv 2206.00364, algorithm 1): two calls a step, one for the last."""

    kind: Literal["heun"] = "heun"
    sigma_schedule: Literal["timesteps", "karras", "exponential"] = "timesteps"


class DPMSolverRecord(DiffusionRecord):
    """DPM-Solver++ (arXiv 2211.01095), multistep.

    solver_order: 1 to 3 network outputs a step, all but one from earlier calls. stochastic: the SDE variant.
    lower_order_final: lower orders in the last steps of runs under 15. euler_at_final: first order in the last step.
    lambda_min: the smallest log signal-to-noise ratio that a run visits; None: of training.
    """

    kind: Literal["dpm++2m"] = "dpm++2m"
    solver_order: int = Field(default=2, ge=1, le=3)
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    stochastic: bool = False
    lower_order_final: bool = True
    euler_at_final: bool = False
    sigma_schedule: SigmaSchedule = "timesteps"
    final_sigma: Literal["zero", "sigma_min"] = "zero"
    lambda_min: float | None = None

    @model_validator(mode="after")
    def _noise_in_second_order_at_most(self) -> Self:
        # The paper has no third-order SDE step, and the one in diffusers (0.42) has a sign wrong.
        if self.stochastic and self.solver_order > 2:
            raise ValueError("the stochastic solver has no third order")
        return self


class DPMSinglestepRecord(DiffusionRecord):
    """DPM-Solver++ (arXiv 2211.01095), singlestep: steps of first and second order by turns; spacing is linspace."""

    kind: Literal["dpm++2s"] = "dpm++2s"
    timestep_spacing: Literal["linspace"] = "linspace"
    solver_order: int = Field(default=2, ge=1, le=2)
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    stochastic: bool = False
    lower_order_final: bool = False
    sigma_schedule: Literal["timesteps", "karras", "exponential"] = "timesteps"
    final_sigma: Literal["zero", "sigma_min"] = "zero"
    lambda_min: float | None = None


class UniPCRecord(DiffusionRecord):
    """UniPC (arXiv 2302.04867). disable_corrector: steps that are not corrected, counted from 0."""

    kind: Literal["unipc"] = "unipc"
    solver_order: int = Field(default=2, ge=1, le=3)
    solver_type: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()
    sigma_schedule: Literal["timesteps", "karras", "exponential"] = "timesteps"
    final_sigma: Literal["zero", "sigma_min"] = "zero"


class _ConsistencyRecord(DiffusionRecord):
    """original_inference_steps: the timesteps of distillation, of which a run takes some."""

    original_inference_steps: int = Field(default=50, gt=0)

    @model_validator(mode="after")
    def _distilled_on_trained_timesteps(self) -> Self:
        if self.original_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"original_inference_steps {self.original_inference_steps} is more than the "
                f"{self.num_train_timesteps} timesteps of training"
            )
        return self


class LCMRecord(_ConsistencyRecord):
    """Latent consistency (arXiv 2310.04378): each call predicts the picture, which is noised again for the next."""

    kind: Literal["lcm"] = "lcm"
    timestep_scaling: float = 10.0
    clip_sample: bool = False
    clip_sample_range: float = 1.0


class TCDRecord(_ConsistencyRecord):
    """Trajectory consistency (arXiv 2402.19159). eta (the paper's gamma): 0 walks without noise, 1 is LCM's way."""

    kind: Literal["tcd"] = "tcd"
    set_alpha_to_one: bool = True
    eta: float = Field(default=0.3, ge=0, le=1)


SamplerRecord: TypeAlias = Annotated[
    DDIMRecord
    | PNDMRecord
    | EulerRecord
    | EulerAncestralRecord
    | HeunRecord
    | DPMSolverRecord
    | DPMSinglestepRecord
    | UniPCRecord
    | LCMRecord
    | TCDRecord,
    Field(discriminator="kind"),
]
RECORDS: tuple[type[DiffusionRecord], ...] = get_args(get_args(SamplerRecord)[0])
