from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler

from sfmobile.checkpoint.scheduler import read_scheduler, scheduler_config
from sfmobile.testing import SD15_SCHEDULER

# The file of stable-diffusion-v1-5.
SD15_FILE = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
OURS = {"_class_name": "SfmobilePipeline"}


def write(root: Path, config: dict[str, Any]) -> Path:
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return root


def test_sd15s_file_for_another_sampler_gives_ddims_constants(tmp_path: Path) -> None:
    assert read_scheduler(write(tmp_path, SD15_FILE), {"_class_name": "StableDiffusionPipeline"}) == SD15_SCHEDULER


def test_a_stable_diffusion_pipeline_samples_as_diffusers_makes_it(tmp_path: Path) -> None:
    write(tmp_path, {"_class_name": "DDIMScheduler", "clip_sample": True, "steps_offset": 0})
    record = read_scheduler(tmp_path, {"_class_name": "StableDiffusionPipeline"})
    assert (record.clip_sample, record.steps_offset) == (False, 1)
    record = read_scheduler(tmp_path, OURS)
    assert (record.clip_sample, record.steps_offset) == (True, 0)


@pytest.mark.parametrize("default_steps", [8, 20])
def test_constants_survive_writing_and_reading(default_steps: int, tmp_path: Path) -> None:
    record = SD15_SCHEDULER.model_copy(
        update={
            "default_steps": default_steps,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "steps_offset": 0,
            "rescale_betas_zero_snr": True,
            "clip_sample": True,
            "clip_sample_range": 3.0,
        }
    )
    assert read_scheduler(write(tmp_path, scheduler_config(record)), OURS) == record


def test_diffusers_reads_the_written_config(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = DDIMScheduler.from_config(scheduler_config(SD15_SCHEDULER))
    for key, value in SD15_SCHEDULER.model_dump(exclude={"kind", "default_steps"}).items():
        assert getattr(scheduler.config, key) == value
