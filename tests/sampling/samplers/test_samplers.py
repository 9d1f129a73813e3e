from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from sfmobile.bundle.samplers import (
    RECORDS,
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
from sfmobile.errors import UsageError
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.samplers.sampler import Sampler
from sfmobile.sampling.samplers.schedule import timesteps_of, training_sigmas
from sfmobile.sampling.samplers.starting import start, start_within
from tests.sampling.samplers.oracles import FakeNetwork, noise, scheduler_of, their_step

STABLE_DIFFUSION: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
# What diffusers' classes don't take.
WITHOUT_ZERO_SNR = (PNDMRecord, HeunRecord, DPMSinglestepRecord)
WITHOUT_SAMPLE = (PNDMRecord, EulerAncestralRecord)
SIGMAS = ["timesteps", "karras", "exponential"]
FINAL = st.sampled_from(["zero", "sigma_min"])
OWN: dict[type[DiffusionRecord], dict[str, st.SearchStrategy[Any]]] = {
    DDIMRecord: {
        "set_alpha_to_one": st.booleans(),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.floats(0.5, 3.0),
        "eta": st.sampled_from([0.0, 0.3, 1.0]),
    },
    PNDMRecord: {"set_alpha_to_one": st.booleans(), "skip_prk_steps": st.booleans()},
    EulerRecord: {"sigma_schedule": st.sampled_from(SIGMAS), "final_sigma": FINAL},
    EulerAncestralRecord: {},
    HeunRecord: {"sigma_schedule": st.sampled_from(SIGMAS)},
    DPMSolverRecord: {
        "solver_type": st.sampled_from(["midpoint", "heun"]),
        "lower_order_final": st.booleans(),
        "euler_at_final": st.booleans(),
        "sigma_schedule": st.sampled_from([*SIGMAS, "lu"]),
        "final_sigma": FINAL,
    },
    DPMSinglestepRecord: {
        "solver_order": st.integers(1, 2),
        "solver_type": st.sampled_from(["midpoint", "heun"]),
        "stochastic": st.booleans(),
        "sigma_schedule": st.sampled_from(SIGMAS),
        "final_sigma": FINAL,
    },
    UniPCRecord: {
        "solver_order": st.integers(1, 3),
        "solver_type": st.sampled_from(["bh1", "bh2"]),
        "disable_corrector": st.sampled_from([(), (0,), (0, 2)]),
        "sigma_schedule": st.sampled_from(SIGMAS),
        "final_sigma": FINAL,
    },
    LCMRecord: {"clip_sample": st.booleans(), "original_inference_steps": st.sampled_from([50, 100])},
    TCDRecord: {"eta": st.sampled_from([0.0, 0.3, 1.0]), "original_inference_steps": st.sampled_from([50, 100])},
}


@st.composite
def walks(draw: st.DrawFn, kind: type[DiffusionRecord]) -> tuple[DiffusionRecord, int]:
    """Any constants that a sampler of this kind and diffusers' class both take, and a number of steps."""
    values = {key: draw(strategy) for key, strategy in OWN[kind].items()}
    if kind is DPMSolverRecord:
        values["stochastic"] = draw(st.booleans())
        values["solver_order"] = draw(st.integers(1, 2 if values["stochastic"] else 3))
    kinds = ["epsilon", "v_prediction", *(["sample"] if kind not in WITHOUT_SAMPLE else [])]
    prediction = draw(st.sampled_from(kinds))
    spacings = ["leading", "trailing", "linspace"]
    if kind is DDIMRecord:
        spacings.remove("linspace")  # walked in another way: see the tests of it below
    spacing = "linspace" if kind is DPMSinglestepRecord else draw(st.sampled_from(spacings))
    zero_snr = kind not in WITHOUT_ZERO_SNR and prediction == "v_prediction" and draw(st.booleans())
    if not zero_snr:
        # Rescaled to zero SNR, larger betas leave so little signal that diffusers' noise levels don't rise to the end.
        values |= {
            "beta_schedule": draw(st.sampled_from(["linear", "scaled_linear"])),
            "beta_start": draw(st.floats(1e-4, 2e-3)),
            "beta_end": draw(st.floats(1e-2, 2e-2)),
        }
    values |= {
        "prediction_type": prediction,
        "timestep_spacing": spacing,
        "steps_offset": draw(st.integers(0, 1)),
        "rescale_betas_zero_snr": zero_snr,
    }
    least = 4 if kind is PNDMRecord and not values["skip_prk_steps"] else 1
    return kind(**{**STABLE_DIFFUSION, **values}), draw(st.integers(least, 50))


def close(found: np.ndarray, expected: np.ndarray, size: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size)


def follows_diffusers(record: Any, steps: int, seed: int) -> None:
    """Walk beside diffusers' scheduler with a network that answers both, and compare everything at every call."""
    theirs = scheduler_of(record, steps)
    source = Noise(seed)
    ours = start(record, steps, source)
    unit, generator = noise(seed)
    assert np.array_equal(source.normal(unit.shape), unit)
    assert ours.calls == len(theirs.timesteps)
    told, tolerance = theirs.timesteps.numpy(), np.full(ours.calls, 3e-3)
    if told.dtype == np.int64 and getattr(record, "sigma_schedule", "") == "exponential":
        # Truncated ones: where they were whole but for rounding errors (of float32 logarithms, there) chance decides.
        exact = timesteps_of(theirs.sigmas.numpy()[: ours.calls], training_sigmas(record))
        tolerance[np.abs(exact - exact.round()) < 3e-3] = 1
    assert (np.abs(ours.timesteps - told) <= tolerance).all()
    latents = unit * np.float32(ours.noise_scale)
    close(latents, unit * np.float32(theirs.init_noise_sigma), float(np.abs(latents).max()))
    for _ in beside(record, ours, theirs, theirs.timesteps, latents, generator):
        pass


def beside(
    record: Any, ours: Sampler, theirs: Any, timesteps: torch.Tensor, latents: np.ndarray, generator: Any
) -> Iterator[int]:
    """Walk on, compare every step, and yield its number."""
    network = FakeNetwork(record.prediction_type)
    for number, timestep in enumerate(timesteps):
        x = torch.from_numpy(latents)
        model_input = ours.model_input(latents)
        scaled = theirs.scale_model_input(x, timestep).numpy()
        close(model_input, scaled, max(1.0, float(np.abs(scaled).max())))
        output = network(model_input, float(ours.timesteps[ours.index]))
        expected, clean = their_step(record, theirs, torch.from_numpy(output), timestep, x, generator)
        found = ours.step(output, latents)
        assert found.latents.dtype == found.denoised.dtype == np.float32
        assert np.isfinite(found.latents).all()
        if not torch.isfinite(expected).all():
            # Steps to level 0 by bh1, or from the last level to itself, divide by zero there.
            assert ours.index == ours.calls
            return
        # A step's terms may be larger than their sum: its rounding errors are those of the latents it started from.
        size = max(float(np.abs(latents).max()), float(expected.abs().max()))
        close(found.latents, expected.numpy(), size)
        if clean is not None:
            close(found.denoised, clean.numpy(), max(size, float(clean.abs().max())))
        latents = found.latents
        yield number


def follows_diffusers_from_a_picture(record: Any, steps: int, strength: float, seed: int) -> None:
    """Enter the walk where diffusers' image-to-image pipeline does, and compare what inpainting puts back too."""
    theirs = scheduler_of(record, steps)
    pipeline: Any = SimpleNamespace(scheduler=theirs)
    timesteps, left = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, "cpu")
    if left < 1:
        with pytest.raises(UsageError, match="leaves none of"):
            start_within(record, steps, strength)
        return
    source = Noise(seed)
    ours = start_within(record, steps, strength, source)
    unit, generator = noise(seed)
    source.normal(unit.shape)
    clean = np.tanh(noise(seed + 1)[0])
    assert np.abs(ours.timesteps[ours.begun :] - timesteps.numpy()).max() <= 1
    latents = ours.noised(clean, unit)
    pair = torch.from_numpy(clean), torch.from_numpy(unit)
    expected = theirs.add_noise(*pair, timesteps[:1]).numpy()
    close(latents, expected, float(np.abs(expected).max()))
    for number in beside(record, ours, theirs, timesteps, latents, generator):
        if number + 1 < len(timesteps):
            expected = theirs.add_noise(*pair, timesteps[number + 1 : number + 2]).numpy()
            close(ours.noised(clean, unit), expected, float(np.abs(expected).max()))
    assert np.array_equal(ours.noised(clean, unit), clean)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.model_fields["kind"].default)
def test_every_step_is_diffusers_own(kind: type[DiffusionRecord]) -> None:
    @given(walks(kind), st.integers(0, 2**31))
    @settings(deadline=None, max_examples=25)
    def every_step(walk: tuple[DiffusionRecord, int], seed: int) -> None:
        follows_diffusers(*walk, seed)

    every_step()


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.model_fields["kind"].default)
def test_every_step_from_a_picture_is_diffusers_own(kind: type[DiffusionRecord]) -> None:
    @given(walks(kind), st.floats(0.05, 1.0), st.integers(0, 2**31))
    @settings(deadline=None, max_examples=15)
    def every_step(walk: tuple[DiffusionRecord, int], strength: float, seed: int) -> None:
        record, steps = walk
        if isinstance(record, PNDMRecord) and not record.skip_prk_steps:
            record = record.model_copy(update={"skip_prk_steps": True})
        follows_diffusers_from_a_picture(record, steps, strength, seed)

    every_step()


def test_a_consistency_model_walks_all_steps_of_a_shorter_list() -> None:
    record = LCMRecord(**{**STABLE_DIFFUSION, "timestep_spacing": "leading"})
    theirs = scheduler_of(record, 4)
    theirs.set_timesteps(4, strength=0.5)
    ours = start_within(record, 4, 0.5, all_steps=True)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist() and ours.begun == 0
    assert start_within(record, 4, 0.5).begun == 2
    with pytest.raises(UsageError, match=r"leaves 2 of the 50 timesteps .* too few for 4 steps"):
        start_within(record, 4, 0.05, all_steps=True)


def test_strengths_and_samplers_that_begin_nowhere_are_refused() -> None:
    record = PNDMRecord(**STABLE_DIFFUSION, set_alpha_to_one=False, skip_prk_steps=False)
    for strength in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(UsageError, match="makes no sense; expected above 0"):
            start_within(record, 8, strength)
    with pytest.raises(UsageError, match=r"leaves none of 8 steps; take at least 0\.12"):
        start_within(record, 8, 0.1)
    with pytest.raises(UsageError, match="Runge-Kutta can't start from a picture"):
        start_within(record, 8, 0.5)
    assert start_within(record, 8, 1.0).begun == 0


LINSPACE = {**STABLE_DIFFUSION, "timestep_spacing": "linspace"}


@given(st.integers(1, 50), st.sampled_from(["epsilon", "v_prediction", "sample"]), st.booleans())
@settings(deadline=None, max_examples=30)
def test_ddim_walks_the_list_of_a_linspace_run(steps: int, prediction: str, to_one: bool) -> None:
    # The DPM solver of first order is DDIM, and diffusers walks it from one timestep of any list to the next.
    constants = {**LINSPACE, "prediction_type": prediction}
    record = DDIMRecord(**constants, set_alpha_to_one=to_one, clip_sample=False)
    ours = start(record, steps)
    theirs = DPMSolverMultistepScheduler(
        **constants, solver_order=1, final_sigmas_type="zero" if to_one else "sigma_min"
    )
    theirs.set_timesteps(timesteps=ours.timesteps.tolist())
    assert ours.timesteps.tolist() == np.linspace(0, 999, steps).round()[::-1].tolist()
    network = FakeNetwork(prediction)
    latents, _ = noise(steps)
    for timestep in theirs.timesteps:
        output = network(latents, float(timestep))
        expected = theirs.step(torch.from_numpy(output), timestep, torch.from_numpy(latents)).prev_sample.numpy()
        found = ours.step(output, latents).latents
        close(found, expected, max(float(np.abs(expected).max()), float(np.abs(latents).max())))
        latents = found


def test_diffusers_ddim_steps_beside_the_list_of_a_linspace_run() -> None:
    # Its open bug: it goes 1000 // 8 = 125 timesteps down where the next of its own list is 143 away.
    record = DDIMRecord(**LINSPACE, set_alpha_to_one=False, clip_sample=False)
    ours, theirs = start(record, 8), scheduler_of(record, 8)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist() == [999, 856, 714, 571, 428, 285, 143, 0]
    latents, _ = noise(0)
    output = FakeNetwork("epsilon")(latents, 999)
    found = ours.step(output, latents).latents
    expected, _ = their_step(record, theirs, torch.from_numpy(output), 999, torch.from_numpy(latents), None)
    alphas = theirs.alphas_cumprod.numpy()
    clean = (latents - np.sqrt(1 - alphas[999]) * output) / np.sqrt(alphas[999])
    for reached, at in ((found, 856), (expected.numpy(), 999 - 125)):
        np.testing.assert_allclose(reached, np.sqrt(alphas[at]) * clean + np.sqrt(1 - alphas[at]) * output, atol=1e-5)


def test_network_calls_are_counted() -> None:
    euler = {"euler": 8, "heun": 15, "pndm": 9, "dpm++2s": 8, "lcm": 8}
    for kind in (EulerRecord, HeunRecord, DPMSinglestepRecord, LCMRecord):
        record = kind(**{**STABLE_DIFFUSION, "timestep_spacing": "linspace"})
        assert start(record, 8).calls == euler[record.kind]
    for skip, calls in ((True, 9), (False, 17)):
        assert start(PNDMRecord(**STABLE_DIFFUSION, set_alpha_to_one=False, skip_prk_steps=skip), 8).calls == calls


def test_the_noise_of_a_run_is_one_source() -> None:
    # The initial latents are the seed's first draw, and every later draw follows it: as diffusers' generator.
    record = EulerAncestralRecord(**STABLE_DIFFUSION)
    drawn = []
    for seed in (0, 0, 1):
        source = Noise(seed)
        latents = source.normal((1, 4, 4, 4))
        sampler = start(record, 3, source)
        drawn.append(sampler.step(np.zeros_like(latents), latents * np.float32(sampler.noise_scale)).latents)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2], atol=0.1)


def test_a_finished_walk_takes_no_more_steps() -> None:
    sampler = start(EulerRecord(**STABLE_DIFFUSION), 1)
    latents, _ = noise(0)
    sampler.step(latents, latents)
    with pytest.raises(UsageError, match="has 1 network calls, which have all been made"):
        sampler.step(latents, latents)


@pytest.mark.parametrize(
    ("record", "steps", "message"),
    [
        (EulerRecord(**STABLE_DIFFUSION), 0, "Expected 1 to 1000 steps"),
        (EulerRecord(**STABLE_DIFFUSION), 1001, "Expected 1 to 1000 steps"),
        (EulerRecord(**STABLE_DIFFUSION), 1000, "start at timestep 1000, beyond the last one trained, 999"),
        (DPMSolverRecord(**STABLE_DIFFUSION), 1000, "would visit a noise level twice"),
        (UniPCRecord(**LINSPACE), 1000, "would visit a noise level twice"),
        (PNDMRecord(**STABLE_DIFFUSION, set_alpha_to_one=False, skip_prk_steps=False), 3, "Expected 4 steps or more"),
        (HeunRecord(**{**STABLE_DIFFUSION, "rescale_betas_zero_snr": True}), 8, "can't start from pure noise"),
        (LCMRecord(**STABLE_DIFFUSION), 51, "Expected 1 to 50 steps, those this sampler's model was distilled on"),
        (TCDRecord(**STABLE_DIFFUSION), 51, "Expected 1 to 50 steps, those this sampler's model was distilled on"),
        (
            LCMRecord(**{**STABLE_DIFFUSION, "rescale_betas_zero_snr": True}),
            4,
            "At timestep 999 this model's latents are pure noise",
        ),
    ],
)
def test_steps_that_can_not_be_taken_are_refused(record: Any, steps: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        start(record, steps)


def test_ddim_with_eta_one_is_ddpm() -> None:
    record = DDIMRecord(**STABLE_DIFFUSION, set_alpha_to_one=True, clip_sample=False, eta=1.0)
    theirs = DDPMScheduler(**STABLE_DIFFUSION, clip_sample=False)
    theirs.set_timesteps(20)
    source = Noise(3)
    ours = start(record, 20, source)
    latents, generator = noise(3)
    source.normal(latents.shape)
    for timestep in theirs.timesteps:
        output = FakeNetwork("epsilon")(latents, float(timestep))
        x = torch.from_numpy(latents)
        expected = theirs.step(torch.from_numpy(output), timestep, x, generator=generator).prev_sample.numpy()
        latents = ours.step(output, latents).latents
        close(latents, expected, float(np.abs(expected).max()))
