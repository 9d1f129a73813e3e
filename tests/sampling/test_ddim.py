from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.errors import UsageError
from sfmobile.sampling.ddim import DDIM
from sfmobile.testing import SD15_SCHEDULER


def record(**changes: Any) -> DDIMRecord:
    return DDIMRecord(**{**SD15_SCHEDULER.model_dump(), **changes})


def oracle(constants: DDIMRecord) -> DDIMScheduler:
    return DDIMScheduler(**constants.model_dump(exclude={"kind", "default_steps"}))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[DDIMRecord, int]:
    """Any constants that DDIM can run with, and a number of steps."""
    schedule = draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]))
    # The cosine schedule ends at almost no signal already; see the test of its rescaling below.
    zero_snr = schedule != "squaredcos_cap_v2" and draw(st.booleans())
    trained = 1000 if zero_snr else draw(st.sampled_from([10, 100, 250, 1000, 1234]))
    beta_start = draw(st.floats(1e-4, 2e-3))
    constants = record(
        num_train_timesteps=trained,
        beta_start=beta_start,
        beta_end=draw(st.floats(beta_start + 1e-3, 2e-2)),
        beta_schedule=schedule,
        prediction_type=draw(st.sampled_from(["epsilon", "v_prediction"])),
        timestep_spacing=draw(st.sampled_from(["leading", "trailing", "linspace"])),
        steps_offset=draw(st.integers(0, 1)),
        set_alpha_to_one=draw(st.booleans()),
        clip_sample=draw(st.booleans()),
        clip_sample_range=draw(st.floats(0.5, 3.0)),
        rescale_betas_zero_snr=zero_snr,
    )
    return constants, draw(st.integers(1, min(trained - 1, 60)))


@given(schedules(), st.integers(0, 2**31))
@example((SD15_SCHEDULER, 8), 0)
@example((record(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True), 8), 0)
@example((record(beta_start=1e-4, beta_end=0.00173, beta_schedule="linear", rescale_betas_zero_snr=True), 1), 1)
@settings(deadline=None, max_examples=150)
def test_matches_diffusers_at_every_step(schedule: tuple[DDIMRecord, int], seed: int) -> None:
    constants, steps = schedule
    ddim, theirs = DDIM(constants), oracle(constants)
    if constants.rescale_betas_zero_snr:
        # torch's vectorised square root isn't correctly rounded (one in five results is a bit off here), and near
        # t = 0 a bit of a_t is much of 1 - a_t. So what rescaling gives is compared by itself, and the steps from it.
        apart = np.abs(ddim.alphas_cumprod.astype(np.float64) - theirs.alphas_cumprod.numpy())
        assert apart.max() <= 32 * 2.0**-24
        theirs.alphas_cumprod = torch.from_numpy(ddim.alphas_cumprod)
        theirs.final_alpha_cumprod = torch.tensor(ddim.final_alpha_cumprod)
    theirs.set_timesteps(steps)
    try:
        timesteps = ddim.timesteps(steps)
    except UsageError:
        # Only where diffusers would divide by zero.
        assert constants.prediction_type == "epsilon"
        assert theirs.alphas_cumprod[theirs.timesteps[0]] == 0
        return
    assert timesteps.tolist() == theirs.timesteps.tolist()
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((1, 4, 4, 4)).astype(np.float32)
    for timestep in timesteps.tolist():
        output = generator.standard_normal(latents.shape).astype(np.float32)
        expected = theirs.step(torch.from_numpy(output), timestep, torch.from_numpy(latents))
        found = ddim.step(output, timestep, latents, steps)
        for ours, reference in (
            (found.latents, expected.prev_sample.numpy()),
            (found.denoised, expected.pred_original_sample.numpy()),
        ):
            # Noise that is scaled up by 1 / sqrt(a_t) takes its rounding errors along.
            scale = max(1.0, float(np.abs(reference).max()))
            np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-5 * scale)
        latents = generator.standard_normal(latents.shape).astype(np.float32)


def test_a_cosine_schedule_rescaled_to_zero_snr_matches_diffusers_up_to_its_own_rounding() -> None:
    # Here a_0 = 0.99996, and one bit of it is 4e-5 in sqrt(1 - a_0).
    constants = record(beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    ours, theirs = DDIM(constants), oracle(constants)
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=0, atol=1e-6)
    assert ours.alphas_cumprod[-1] == 0


def test_an_oracle_of_the_noise_is_walked_back_to_the_picture() -> None:
    generator = np.random.default_rng(0)
    picture, noise = generator.standard_normal((2, 1, 4, 8, 8)).astype(np.float32)
    for prediction_type in ("epsilon", "v_prediction"):
        ddim = DDIM(record(prediction_type=prediction_type, set_alpha_to_one=True, timestep_spacing="trailing"))
        timesteps = ddim.timesteps(8)

        def noisy(timestep: int, ddim: DDIM = ddim) -> np.ndarray:
            signal = ddim.alphas_cumprod[timestep]
            return np.sqrt(signal) * picture + np.sqrt(1 - signal) * noise

        latents = noisy(timesteps[0])
        for timestep in timesteps.tolist():
            signal = ddim.alphas_cumprod[timestep]
            v = np.sqrt(signal) * noise - np.sqrt(1 - signal) * picture
            np.testing.assert_allclose(latents, noisy(timestep), atol=2e-5)
            latents = ddim.step(noise if prediction_type == "epsilon" else v, timestep, latents, 8).latents
        np.testing.assert_allclose(latents, picture, atol=1e-4)


def test_timesteps_of_the_published_settings() -> None:
    assert DDIM(SD15_SCHEDULER).timesteps(8).tolist() == [876, 751, 626, 501, 376, 251, 126, 1]
    trailing = DDIM(record(timestep_spacing="trailing")).timesteps(8)
    assert trailing.tolist() == [999, 874, 749, 624, 499, 374, 249, 124]


@pytest.mark.parametrize("steps", [0, -1, -1000, 1001, 10**9])
def test_steps_outside_the_training_range_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=f"Expected 1 to 1000 steps, .*; found {steps}"):
        DDIM(SD15_SCHEDULER).timesteps(steps)


def test_as_many_steps_as_timesteps_with_an_offset_are_refused() -> None:
    with pytest.raises(UsageError, match="start at timestep 1000, beyond the last one trained, 999"):
        DDIM(SD15_SCHEDULER).timesteps(1000)
    assert DDIM(record(steps_offset=0)).timesteps(1000).tolist() == list(range(999, -1, -1))


def test_noise_prediction_can_not_start_where_no_signal_is_left() -> None:
    constants = record(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(UsageError, match="At timestep 999 this model's latents are pure noise"):
        DDIM(constants).timesteps(8)
    assert len(DDIM(constants.model_copy(update={"prediction_type": "v_prediction"})).timesteps(8)) == 8
