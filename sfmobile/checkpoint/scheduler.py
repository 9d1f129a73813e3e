"""diffusers' scheduler files: `scheduler/scheduler_config.json` to the record of a sampler, and back.

Each of diffusers' classes has defaults of its own for keys that a file leaves out, so each has its config here. What a
class does and no sampler here does is either another way of walking the same process, which another sampler replaces,
in so many words, or another process, whose checkpoint is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

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
from sfmobile.checkpoint.config import ForeignConfig, Json, parse
from sfmobile.errors import ArtifactError
from sfmobile.files import parse_json, read_bytes, validated

# Pipelines that sfmobile writes: their files say what is meant.
OUR_PIPELINE = "SfmobilePipeline"
SCHEDULER_FILE = "scheduler/scheduler_config.json"
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class ReadSampler:
    """A checkpoint's sampler. replaced: what its file asks for that no sampler here does, a clause each."""

    record: SamplerRecord
    replaced: tuple[str, ...] = ()


class _Config(ForeignConfig):
    """What all schedulers have. Keys of another process are allowed in the one form that means this one."""

    num_train_timesteps: int = Field(default=1000, gt=1)
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: int = Field(default=0, ge=0)
    rescale_betas_zero_snr: bool = False
    thresholding: Literal[False] = False
    use_flow_sigmas: Literal[False] | None = None
    variance_type: Literal["fixed_small", "fixed_small_log"] | None = None
    timestep_type: Literal["discrete"] = "discrete"

    def record(self) -> SamplerRecord:
        raise NotImplementedError

    def replaced(self) -> tuple[str, ...]:
        """Ways of walking that the record doesn't have."""
        return ()

    def _process(self) -> dict[str, Any]:
        return {key: value for key, value in self.model_dump().items() if key in DiffusionRecord.model_fields}


class _DDIM(_Config):
    """clip_sample is on by default in diffusers, for pixels; latents aren't bounded by 1, and its pipelines say so."""

    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def record(self) -> SamplerRecord:
        return DDIMRecord(
            **self._process(),
            set_alpha_to_one=self.set_alpha_to_one,
            clip_sample=self.clip_sample,
            clip_sample_range=self.clip_sample_range,
        )


class _DDPM(_Config):
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def record(self) -> SamplerRecord:
        # Its posterior is DDIM's with eta 1 (arXiv 2010.02502, section 4.1).
        return DDIMRecord(
            **self._process(),
            set_alpha_to_one=True,
            clip_sample=self.clip_sample,
            clip_sample_range=self.clip_sample_range,
            eta=1.0,
        )

    def replaced(self) -> tuple[str, ...]:
        # DDPM's steps end at the next timestep, DDIM's go a fixed way, which is the same where their number divides it.
        trailing = self.timestep_spacing == "trailing"
        return ("DDPM's trailing steps of unequal length, by DDIM's of equal length",) if trailing else ()


class _PNDM(_Config):
    set_alpha_to_one: bool = False
    skip_prk_steps: bool = False

    def record(self) -> SamplerRecord:
        return PNDMRecord(**self._process(), set_alpha_to_one=self.set_alpha_to_one, skip_prk_steps=self.skip_prk_steps)


class _InLevels(_Config):
    """Schedulers that walk noise levels, whose spacing is linspace by default, along one of several curves."""

    timestep_spacing: Spacing = "linspace"
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def replaced(self) -> tuple[str, ...]:
        return ("noise levels of a beta distribution, by those of its timesteps",) if self.use_beta_sigmas else ()

    def _curve(self) -> Any:
        if self.use_karras_sigmas:
            return "karras"
        return "exponential" if self.use_exponential_sigmas else "timesteps"


class _Euler(_InLevels):
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    interpolation_type: Literal["linear", "log_linear"] = "linear"

    def record(self) -> SamplerRecord:
        return EulerRecord(
            **self._process(),
            sigma_schedule=self._curve(),
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            final_sigma=self.final_sigmas_type,
        )

    def replaced(self) -> tuple[str, ...]:
        logarithmic = self.interpolation_type == "log_linear"
        return (*super().replaced(), *(["logarithmic interpolation, by linear"] if logarithmic else []))


class _EulerAncestral(_InLevels):
    def record(self) -> SamplerRecord:
        return EulerAncestralRecord(**self._process())


class _Heun(_InLevels):
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def record(self) -> SamplerRecord:
        return HeunRecord(**self._process(), sigma_schedule=self._curve())


class _Solver(_InLevels):
    solver_order: int = Field(default=2, ge=1, le=3)
    solver_type: str = "midpoint"
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"] = "dpmsolver++"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    lambda_min_clipped: float = float("-inf")
    variance_type: None = None

    def record(self) -> SamplerRecord:
        stochastic = self.algorithm_type.startswith("sde")
        return DPMSolverRecord(
            **self._process(),
            solver_order=min(self.solver_order, 2) if stochastic else self.solver_order,
            solver_type=self._solver_type(),
            stochastic=stochastic,
            lower_order_final=self.lower_order_final,
            euler_at_final=self.euler_at_final,
            sigma_schedule="lu" if self.use_lu_lambdas else self._curve(),
            final_sigma=self.final_sigmas_type,
            lambda_min=self._lambda_min(),
        )

    def replaced(self) -> tuple[str, ...]:
        found = list(super().replaced())
        if not self.algorithm_type.endswith("++"):
            found.append(f"the algorithm {self.algorithm_type}, by {'sde-' * self._is_stochastic()}dpmsolver++")
        if self._is_stochastic() and self.solver_order == 3:
            found.append("third order in a stochastic solver, by second")
        return tuple(found)

    def _is_stochastic(self) -> bool:
        return self.algorithm_type.startswith("sde")

    def _solver_type(self) -> Literal["midpoint", "heun"]:
        # diffusers takes other solvers' names for its default.
        return "heun" if self.solver_type == "heun" else "midpoint"

    def _lambda_min(self) -> float | None:
        return None if self.lambda_min_clipped == float("-inf") else self.lambda_min_clipped


class _Singlestep(_Solver):
    # It has no such key: a file of another scheduler may.
    timestep_spacing: Any = "linspace"
    lower_order_final: bool = False

    def record(self) -> SamplerRecord:
        return DPMSinglestepRecord(
            **{**self._process(), "timestep_spacing": "linspace"},
            solver_order=min(self.solver_order, 2),
            solver_type=self._solver_type(),
            stochastic=self._is_stochastic(),
            lower_order_final=self.lower_order_final,
            sigma_schedule=self._curve(),
            final_sigma=self.final_sigmas_type,
            lambda_min=self._lambda_min(),
        )

    def replaced(self) -> tuple[str, ...]:
        third = self.solver_order == 3 and not self._is_stochastic()
        return (*super().replaced(), *(["third order, by second"] if third else []))


class _DEIS(_Solver):
    def record(self) -> SamplerRecord:
        return DPMSolverRecord(**self._process(), sigma_schedule=self._curve(), solver_order=min(self.solver_order, 2))


class _StochasticSolver(_InLevels):
    def record(self) -> SamplerRecord:
        return DPMSolverRecord(**self._process(), sigma_schedule=self._curve(), stochastic=True)


class _UniPC(_InLevels):
    solver_order: int = Field(default=2, ge=1, le=3)
    solver_type: str = "bh2"
    predict_x0: bool = True
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: Any = None

    def record(self) -> SamplerRecord:
        return UniPCRecord(
            **self._process(),
            solver_order=self.solver_order,
            solver_type="bh1" if self.solver_type == "bh1" else "bh2",
            lower_order_final=self.lower_order_final,
            disable_corrector=self.disable_corrector,
            sigma_schedule=self._curve(),
            final_sigma=self.final_sigmas_type,
        )

    def replaced(self) -> tuple[str, ...]:
        found = list(super().replaced())
        if not self.predict_x0:
            found.append("prediction of noise in the solver, by that of the picture")
        if self.solver_p is not None:
            found.append("another solver's predictor, by its own")
        return tuple(found)


class _LCM(_Config):
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    original_inference_steps: int = Field(default=50, gt=0)
    timestep_scaling: float = 10.0
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    @model_validator(mode="after")
    def _distilled_on_trained_timesteps(self) -> Self:
        if self.original_inference_steps > self.num_train_timesteps:
            raise ValueError(f"original_inference_steps is more than the {self.num_train_timesteps} of training")
        return self

    def record(self) -> SamplerRecord:
        return LCMRecord(
            **self._process(),
            original_inference_steps=self.original_inference_steps,
            timestep_scaling=self.timestep_scaling,
            clip_sample=self.clip_sample,
            clip_sample_range=self.clip_sample_range,
        )


class _TCD(_LCM):
    set_alpha_to_one: bool = True

    def record(self) -> SamplerRecord:
        return TCDRecord(
            **self._process(),
            original_inference_steps=self.original_inference_steps,
            set_alpha_to_one=self.set_alpha_to_one,
            # diffusers' pipelines hand theirs on, which is 0 unless the caller says otherwise.
            eta=0.0,
        )


# diffusers' classes that a sampler here walks as they do.
OWN: dict[str, type[_Config]] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": _PNDM,
    "EulerDiscreteScheduler": _Euler,
    "EulerAncestralDiscreteScheduler": _EulerAncestral,
    "HeunDiscreteScheduler": _Heun,
    "DPMSolverMultistepScheduler": _Solver,
    "DPMSolverSinglestepScheduler": _Singlestep,
    "UniPCMultistepScheduler": _UniPC,
    "LCMScheduler": _LCM,
    "TCDScheduler": _TCD,
}
# Those of the same process whose way of walking no sampler here has, and the nearest that one has.
REPLACED: dict[str, type[_Config]] = {
    "DEISMultistepScheduler": _DEIS,
    "DPMSolverSDEScheduler": _StochasticSolver,
    "KDPM2AncestralDiscreteScheduler": _EulerAncestral,
    "KDPM2DiscreteScheduler": _Heun,
    "LMSDiscreteScheduler": _Euler,
    "SASolverScheduler": _StochasticSolver,
}


def read_scheduler_file(root: Path) -> Json:
    """The scheduler's config of the checkpoint at `root`; raises `ArtifactError` if it is missing, cut or no object."""
    file, what = root / SCHEDULER_FILE, "a JSON file of a diffusers-format checkpoint"
    content = read_bytes(file, what, "copy the checkpoint again")
    # diffusers writes the DPM solvers' smallest lambda as Python prints it, which is no JSON.
    content = re.sub(rb":\s*-Infinity\b", b': "-inf"', content)
    value = parse_json(content, f"'{file}'", what, "copy the checkpoint again")
    return validated(dict[str, Any], value, f"'{file}'", what, "copy the checkpoint again")


def _class_of(index: Json) -> str | None:
    """The class that diffusers reads a scheduler's file with, whatever wrote it, where `model_index.json` names one."""
    named = index.get("scheduler")
    return named[1] if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str) else None


def read_sampler(root: Path, index: Json) -> ReadSampler:
    """The sampler of the checkpoint at `root`, whose `model_index.json` is `index`.

    diffusers' Stable Diffusion pipelines sample without clipping and with `steps_offset` 1 whatever the file says (the
    files of 2022 are wrong); so does every checkpoint here but those that sfmobile wrote.
    Raises `ArtifactError` for a scheduler of another process (flow matching, consistency models).
    """
    file = root / SCHEDULER_FILE
    config = read_scheduler_file(root)
    kinds = {**OWN, **REPLACED}
    written = config.get("_class_name", "DDIMScheduler")
    found = _class_of(index) or written
    other = next((name for name in (written, found) if not isinstance(name, str) or name not in kinds), None)
    if other is not None:
        raise ArtifactError(
            f"{file}: {other} walks another diffusion process than Stable Diffusion's; expected a checkpoint with one "
            f"of {', '.join(sorted(kinds))}."
        )
    if index.get("_class_name") != OUR_PIPELINE:
        config = {**config, "clip_sample": False, "steps_offset": 1}
    read = parse(kinds[found], config, file)
    record, replaced = read.record(), read.replaced()
    if found in REPLACED:
        replaced = (f"{found}, by {record.kind}", *replaced)
    return ReadSampler(record, replaced)


def replacement_note(replaced: tuple[str, ...]) -> str:
    """One line that says so at export."""
    return (
        f"The checkpoint's own sampler isn't here in full and is replaced ({'; '.join(replaced)}): pictures will "
        "differ from diffusers' at the same seed."
    )


# diffusers' class of each kind of record, and its name for a constant where it isn't ours.
CLASSES = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm++2s": "DPMSolverSinglestepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
CURVES = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas", "lu": "use_lu_lambdas"}


def scheduler_config(record: SamplerRecord) -> Json:
    """`scheduler/scheduler_config.json` as diffusers' class of that sampler reads it; eta is a pipeline's argument."""
    values = record.model_dump(mode="json", exclude={"kind", "eta"})
    config: Json = {"_class_name": CLASSES[record.kind]}
    if record.kind == "ddim" and record.eta == 1:
        config["_class_name"] = "DDPMScheduler"
        del values["set_alpha_to_one"]
    curve = values.pop("sigma_schedule", "timesteps")
    if curve in CURVES:
        config[CURVES[curve]] = True
    if "final_sigma" in values:
        config["final_sigmas_type"] = values.pop("final_sigma")
    if values.pop("stochastic", False):
        config["algorithm_type"] = "sde-dpmsolver++"
    lambda_min = values.pop("lambda_min", None)
    if lambda_min is not None:
        config["lambda_min_clipped"] = lambda_min
    if record.kind == "ddim":
        values["thresholding"] = False
    return {**config, **values}
