"""Samplers by name: any that a model can be walked with, with the constants of the model's own process."""

from __future__ import annotations

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
from sfmobile.sampling.samplers.starting import start

# What each name means beside the kind of its record and the constants that it takes from the model's own record.
NAMED: dict[str, tuple[type[DiffusionRecord], dict[str, Any]]] = {
    "ddim": (DDIMRecord, {"clip_sample": False, "eta": 0.0}),
    "pndm": (PNDMRecord, {"skip_prk_steps": True}),
    "euler": (EulerRecord, {}),
    "euler-karras": (EulerRecord, {"sigma_schedule": "karras"}),
    "euler-ancestral": (EulerAncestralRecord, {}),
    "heun": (HeunRecord, {}),
    "dpm++2m": (DPMSolverRecord, {}),
    "dpm++2m-karras": (DPMSolverRecord, {"sigma_schedule": "karras"}),
    "dpm++2m-sde": (DPMSolverRecord, {"stochastic": True}),
    "dpm++2m-sde-karras": (DPMSolverRecord, {"stochastic": True, "sigma_schedule": "karras"}),
    "dpm++2s": (DPMSinglestepRecord, {"timestep_spacing": "linspace"}),
    "unipc": (UniPCRecord, {}),
    "lcm": (LCMRecord, {}),
    "tcd": (TCDRecord, {}),
}
NAMES: tuple[str, ...] = tuple(NAMED)
# Constants of the model's own sampler that mean the same in another.
SHARED = (*DiffusionRecord.model_fields, "set_alpha_to_one", "original_inference_steps")


def name_of(record: SamplerRecord) -> str:
    """What the sampler of `record` is called: its kind, and what sets it apart from the plain one."""
    parts: list[str] = [record.kind]
    if getattr(record, "stochastic", False):
        parts.append("sde")
    schedule = getattr(record, "sigma_schedule", "timesteps")
    return "-".join([*parts, *([schedule] if schedule != "timesteps" else [])])


def named(own: SamplerRecord, name: str) -> SamplerRecord:
    """The sampler called `name` for a model whose own sampler is `own`, which `name` may be.

    Betas, prediction, zero-SNR rescaling and spacing (where the sampler has a choice) are the model's.
    Raises `UsageError` if there is no such sampler, or if it can't walk this model, saying which can.
    """
    if name == name_of(own):
        return own
    if name not in NAMED:
        raise UsageError(f"There is no sampler '{name}'; expected one of {', '.join(NAMES)}.")
    record = _derived(own, name)
    if not _walks(record):
        others = ", ".join(walkers(own))
        raise UsageError(
            f"The sampler '{name}' can't walk this model, which starts from pure noise; these can: {others}."
        )
    return record


def with_eta(record: SamplerRecord, eta: float) -> SamplerRecord:
    """`record` with so much of its noise drawn anew: eta of DDIM, gamma of TCD (arXiv 2402.19159), 0 none to 1 all.

    Raises `UsageError` for another sampler, which has no such constant, and outside of 0 to 1.
    """
    if not isinstance(record, DDIMRecord | TCDRecord):
        raise UsageError(f"The sampler '{name_of(record)}' has no eta; ddim and tcd have.")
    if not 0 <= eta <= 1:
        raise UsageError(f"An eta of {eta:g} is impossible; expected 0 (no noise on the way) to 1.")
    return record.model_copy(update={"eta": eta})


def walkers(own: SamplerRecord) -> tuple[str, ...]:
    """The names of all samplers that can walk the model whose own sampler is `own`."""
    return tuple(name for name in NAMES if name == name_of(own) or _walks(_derived(own, name)))


def ddim_of(own: SamplerRecord) -> DDIMRecord:
    """DDIM over the process of `own`: `own` itself if it is that."""
    return own if isinstance(own, DDIMRecord) else DDIMRecord.model_validate(_derived(own, "ddim").model_dump())


def _derived(own: SamplerRecord, name: str) -> SamplerRecord:
    kind, settings = NAMED[name]
    values = {key: value for key, value in own.model_dump().items() if key in SHARED and key in kind.model_fields}
    if "set_alpha_to_one" in kind.model_fields:
        values.setdefault("set_alpha_to_one", True)
    if kind is PNDMRecord and own.timestep_spacing == "linspace":
        # Its formulas step by a fixed distance, beside the timesteps of such a run.
        values["timestep_spacing"] = "leading"
    record: SamplerRecord = kind(**{**values, **settings})  # type: ignore[assignment]
    return record


def _walks(record: SamplerRecord) -> bool:
    """Whether a run can start; where it starts doesn't depend on the number of steps, if that is few."""
    try:
        start(record, 2)
    except UsageError:
        return False
    return True
