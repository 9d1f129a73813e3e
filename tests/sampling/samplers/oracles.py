"""diffusers' schedulers for our records, and a network to walk with."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import numpy as np
import torch

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
    TCDRecord,
    UniPCRecord,
)

CLASSES: dict[type[DiffusionRecord], type] = {
    DDIMRecord: diffusers.DDIMScheduler,
    PNDMRecord: diffusers.PNDMScheduler,
    EulerRecord: diffusers.EulerDiscreteScheduler,
    EulerAncestralRecord: diffusers.EulerAncestralDiscreteScheduler,
    HeunRecord: diffusers.HeunDiscreteScheduler,
    DPMSolverRecord: diffusers.DPMSolverMultistepScheduler,
    DPMSinglestepRecord: diffusers.DPMSolverSinglestepScheduler,
    UniPCRecord: diffusers.UniPCMultistepScheduler,
    LCMRecord: diffusers.LCMScheduler,
    TCDRecord: diffusers.TCDScheduler,
}


def config_of(record: DiffusionRecord) -> dict[str, Any]:
    """The record's constants under diffusers' names."""
    values = record.model_dump(exclude={"kind", "eta"})
    sigmas = values.pop("sigma_schedule", "timesteps")
    names = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas", "lu": "use_lu_lambdas"}
    if sigmas in names:
        values[names[sigmas]] = True
    if "final_sigma" in values:
        values["final_sigmas_type"] = values.pop("final_sigma")
    if values.pop("stochastic", False):
        values["algorithm_type"] = "sde-dpmsolver++"
    if values.get("lambda_min") is not None:
        values["lambda_min_clipped"] = values["lambda_min"]
    values.pop("lambda_min", None)
    if "disable_corrector" in values:
        values["disable_corrector"] = list(values["disable_corrector"])
    known = inspect.signature(CLASSES[type(record)].__init__).parameters
    unknown = {key for key, value in values.items() if key not in known and value}
    assert unknown <= {"timestep_spacing", "steps_offset"}, unknown
    return {key: value for key, value in values.items() if key in known}


def scheduler_of(record: DiffusionRecord, steps: int) -> Any:
    """diffusers' scheduler, ready for a run."""
    scheduler = CLASSES[type(record)](**config_of(record))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        # Without it they look the first timestep up, and of two equal ones take the second.
        scheduler.set_begin_index(0)
    return scheduler


def their_step(record: DiffusionRecord, scheduler: Any, output: Any, timestep: Any, x: Any, generator: Any) -> Any:
    """One step of diffusers' scheduler; (latents, denoised or None)."""
    options: dict[str, Any] = {}
    known = inspect.signature(scheduler.step).parameters
    if "generator" in known:
        options["generator"] = generator
    if "eta" in known:
        options["eta"] = getattr(record, "eta", 0.0)
    result = scheduler.step(output, timestep, x, **options)
    clean = getattr(result, "pred_original_sample", None)
    return result.prev_sample, clean


class FakeNetwork:
    """A network without weights, smooth and not linear in latents or time, about as a trained one answers."""

    def __init__(self, prediction_type: str) -> None:
        self.prediction_type = prediction_type

    def __call__(self, x: np.ndarray, timestep: float) -> np.ndarray:
        time = np.float32(timestep / 1000)
        answer = {
            "epsilon": np.tanh(x * (np.float32(0.4) + time)) + np.float32(0.1) * np.sin(5 * time + x),
            "v_prediction": np.float32(0.5) * np.sin(x + 3 * time) - np.float32(0.2) * x * (1 - time),
            "sample": np.float32(0.8) * np.tanh(x * (np.float32(1.2) - time)) + np.float32(0.1) * np.cos(4 * time),
        }[self.prediction_type]
        return np.asarray(answer, np.float32)


def noise(seed: int, shape: tuple[int, ...] = (1, 4, 4, 4)) -> tuple[np.ndarray, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).numpy(), generator
