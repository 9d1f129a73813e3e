from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from sfmobile.bundle.samplers import RECORDS, DDIMRecord, DiffusionRecord, EulerRecord, PNDMRecord, SamplerRecord
from sfmobile.checkpoint.scheduler import OWN, REPLACED, read_sampler, replacement_note, scheduler_config
from sfmobile.errors import ArtifactError
from sfmobile.sampling.samplers.named import NAMES, name_of, named
from sfmobile.sampling.samplers.starting import start
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
STABLE_DIFFUSION = {"_class_name": "StableDiffusionPipeline"}
PROCESS = {key: value for key, value in SD15_SCHEDULER.model_dump().items() if key in DiffusionRecord.model_fields}


def write(root: Path, config: dict[str, Any]) -> Path:
    (root / "scheduler").mkdir(exist_ok=True)
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return root


def read(root: Path, config: dict[str, Any], index: dict[str, Any] = STABLE_DIFFUSION) -> SamplerRecord:
    return read_sampler(write(root, config), index).record


def test_sd15s_file_gives_its_own_sampler(tmp_path: Path) -> None:
    assert read(tmp_path, SD15_FILE) == PNDMRecord(**PROCESS, set_alpha_to_one=False, skip_prk_steps=True)


@pytest.mark.parametrize(
    "pipeline", ["StableDiffusionPipeline", "LatentConsistencyModelPipeline", "StableDiffusionControlNetPipeline", ""]
)
def test_files_of_2022_are_corrected_whatever_the_pipeline(pipeline: str, tmp_path: Path) -> None:
    for offset in ({}, {"steps_offset": 0}):
        record = read(
            tmp_path, {"_class_name": "DDIMScheduler", "clip_sample": True, **offset}, {"_class_name": pipeline}
        )
        assert isinstance(record, DDIMRecord)
        assert (record.clip_sample, record.steps_offset) == (False, 1)


def test_what_sfmobile_wrote_is_read_as_it_stands(tmp_path: Path) -> None:
    record = read(tmp_path, {"_class_name": "DDIMScheduler", "clip_sample": True, "steps_offset": 0}, OURS)
    assert isinstance(record, DDIMRecord)
    assert (record.clip_sample, record.steps_offset) == (True, 0)


# What each class's file may say beside its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "DDIMScheduler": [
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    ],
    "PNDMScheduler": [{"skip_prk_steps": True}],
    "EulerDiscreteScheduler": [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True, "timestep_spacing": "leading", "final_sigmas_type": "sigma_min"},
        {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    ],
    "EulerAncestralDiscreteScheduler": [{"timestep_spacing": "trailing"}],
    "HeunDiscreteScheduler": [{"use_karras_sigmas": True}],
    "DPMSolverMultistepScheduler": [
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 3, "solver_type": "heun", "euler_at_final": True, "lower_order_final": False},
        {"use_lu_lambdas": True, "final_sigmas_type": "sigma_min"},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    ],
    "DPMSolverSinglestepScheduler": [{"use_karras_sigmas": True, "lower_order_final": True}],
    "UniPCMultistepScheduler": [{"solver_order": 3, "solver_type": "bh1", "disable_corrector": [0]}],
    "LCMScheduler": [{"original_inference_steps": 100}],
    "TCDScheduler": [{}],
}


@pytest.mark.parametrize("name", OWN)
def test_a_file_that_diffusers_wrote_is_walked_as_diffusers_walks_it(name: str, tmp_path: Path) -> None:
    kind = getattr(diffusers, name)
    for variant in ({}, *VARIANTS.get(name, [])):
        # Its pipelines mend both of these in every file: see the test above.
        mended = {"clip_sample": False, "steps_offset": 1}
        known = kind().config
        theirs = kind(**{**{key: value for key, value in mended.items() if key in known}, **variant})
        theirs.save_pretrained(tmp_path / "scheduler")
        found = read_sampler(tmp_path, STABLE_DIFFUSION)
        assert found.replaced == ()
        ours = start(found.record, 6)
        theirs.set_timesteps(6)
        np.testing.assert_allclose(ours.timesteps, theirs.timesteps.numpy(), atol=3e-3)
        latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        output = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        given = {"generator": torch.Generator().manual_seed(0), "eta": 0.0}
        options = {key: value for key, value in given.items() if key in inspect.signature(theirs.step).parameters}
        expected = theirs.step(output, theirs.timesteps[0], latents, **options).prev_sample.numpy()
        step = ours.step(output.numpy(), latents.numpy()).latents
        np.testing.assert_allclose(step, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", REPLACED)
def test_a_sampler_that_is_not_here_is_replaced_in_so_many_words(name: str, tmp_path: Path) -> None:
    found = read_sampler(write(tmp_path, {**SD15_FILE, "_class_name": name}), STABLE_DIFFUSION)
    assert found.replaced[0] == f"{name}, by {found.record.kind}"
    assert start(found.record, 8).calls >= 8
    assert f"({name}, by {found.record.kind}): pictures will differ" in replacement_note(found.replaced)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "noise levels of a beta distribution"),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}, "logarithmic interpolation"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "the algorithm dpmsolver, by"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            "third order in a stochastic solver, by second",
        ),
        ({"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 3}, "third order, by second"),
        ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "prediction of noise in the solver"),
    ],
)
def test_a_way_of_walking_that_is_not_here_is_replaced_in_so_many_words(
    config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = read_sampler(write(tmp_path, config), STABLE_DIFFUSION)
    assert said in "; ".join(found.replaced)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "walks another diffusion process .* DDIMScheduler, "),
        ({"_class_name": ["DDIMScheduler"]}, "walks another diffusion process"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "walks another diffusion process"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "at use_flow_sigmas"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "at timestep_type"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "at thresholding"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1]}, "at trained_betas"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "at variance_type"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_order": 4}, "at solver_order"),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 2000}, "is more than the 1000 of training"),
    ],
)
def test_another_process_is_refused_by_name(config: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        read_sampler(write(tmp_path, config), STABLE_DIFFUSION)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.model_fields["kind"].default)
def test_every_sampler_survives_writing_and_reading(kind: type[DiffusionRecord], tmp_path: Path) -> None:
    own = EulerRecord(**{**PROCESS, "timestep_spacing": "linspace", "prediction_type": "v_prediction"})
    for name in NAMES:
        record = named(own, name)
        if isinstance(record, kind):
            found = read(tmp_path, scheduler_config(record), OURS)
            assert found.model_copy(update={"eta": 0}) == record.model_copy(update={"eta": 0})
            assert name_of(found) == name


def test_constants_survive_writing_and_reading(tmp_path: Path) -> None:
    record = SD15_SCHEDULER.model_copy(
        update={
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "steps_offset": 0,
            "rescale_betas_zero_snr": True,
            "clip_sample": True,
            "clip_sample_range": 3.0,
        }
    )
    assert read(tmp_path, scheduler_config(record), OURS) == record


def test_diffusers_reads_the_written_config() -> None:
    scheduler = DDIMScheduler.from_config(scheduler_config(SD15_SCHEDULER))
    for key, value in SD15_SCHEDULER.model_dump(exclude={"kind", "eta"}).items():
        assert getattr(scheduler.config, key) == value
