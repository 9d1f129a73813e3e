"""The built-in model's constants that several stages share: noise schedules."""

from __future__ import annotations

from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.errors import UsageError

STANDARD_SCHEDULE = DDIMRecord(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    timestep_spacing="trailing",
    steps_offset=0,
    set_alpha_to_one=True,
    clip_sample=False,
    rescale_betas_zero_snr=False,
)
# Ends in pure noise (arXiv 2305.08891), so that one-colour backgrounds can be reached from it.
ZERO_TERMINAL_SCHEDULE = STANDARD_SCHEDULE.model_copy(update={"rescale_betas_zero_snr": True})

SCHEDULES = {"standard": STANDARD_SCHEDULE, "zero-terminal": ZERO_TERMINAL_SCHEDULE}


def schedule_named(name: str) -> DDIMRecord:
    """The noise schedule that settings call `name`."""
    if name not in SCHEDULES:
        raise UsageError(f"Noise schedule '{name}' is unknown; expected one of {', '.join(SCHEDULES)}.")
    return SCHEDULES[name]
