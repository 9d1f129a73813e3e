"""The scheduler's constants: `scheduler/scheduler_config.json` to a `DDIMRecord` and back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.checkpoint.config import ForeignConfig, Json, parse, read_config
from sfmobile.errors import ArtifactError

# Samplers of one and the same diffusion process: their constants serve DDIM as they are.
SAMPLERS = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    }
)


class _SchedulerConfig(ForeignConfig):
    """Defaults are those of diffusers' DDIMScheduler, except `clip_sample`: latents aren't bounded by 1."""

    num_train_timesteps: int = Field(default=1000, gt=0)
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: int = Field(default=0, ge=0)
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool = False
    thresholding: Literal[False] = False


def read_scheduler(root: Path, index: Json) -> DDIMRecord:
    """Constants of the checkpoint at `root`, whose `model_index.json` is `index`.

    diffusers' StableDiffusionPipeline samples without clipping and with `steps_offset` 1 whatever the file says (the
    files of 2022 are wrong); a checkpoint of that pipeline is read in the same way, so that pictures agree.
    Raises `ArtifactError` for a scheduler of another process (flow matching, consistency models).
    """
    file = root / "scheduler" / "scheduler_config.json"
    config = read_config(file)
    sampler = config.get("_class_name", "DDIMScheduler")
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise ArtifactError(
            f"{file}: a model for {sampler} can't be sampled with DDIM; expected one of {', '.join(sorted(SAMPLERS))}."
        )
    values = parse(_SchedulerConfig, config, file).model_dump(exclude={"trained_betas", "thresholding"})
    if index.get("_class_name") == "StableDiffusionPipeline":
        values.update(clip_sample=False, steps_offset=1)
    return DDIMRecord(**values)


def scheduler_config(record: DDIMRecord) -> Json:
    """`scheduler/scheduler_config.json` as diffusers' DDIMScheduler reads it."""
    values = record.model_dump(mode="json", exclude={"kind"})
    return {"_class_name": "DDIMScheduler", **values, "thresholding": False}
