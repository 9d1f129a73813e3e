from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sfmobile.checkpoint.description import DEFAULT_STEPS
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.scheduler import scheduler_config
from sfmobile.errors import UsageError
from sfmobile.nets.layout import UNetLayout
from sfmobile.sampling.pipeline import Request, Step
from sfmobile.sampling.samplers.named import named
from sfmobile.signal import psnr
from sfmobile.testing import SD15_SCHEDULER, write_synthetic_checkpoint
from tests.checkpoint.diffusers_files import stable_diffusion_1, stable_diffusion_2
from tests.sampling.pipelines import reference_pipeline
from tests.tiny import TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET


def diffusers_picture(pipeline: Any, request: Request, height: int, width: int, eta: float = 0.0) -> np.ndarray:
    """diffusers' own picture, uint8 (H, W, 3), with the checkpoint's own scheduler."""
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        height=height,
        width=width,
        output_type="pil",
        eta=eta,
    ).images[0]
    return np.asarray(image)


REQUESTS = {
    "guided": Request("a red apple on a table", seed=7, steps=8, guidance_scale=7.5),
    "negative prompt": Request("a red apple", negative_prompt="green, blurry", seed=1, steps=5, guidance_scale=3.0),
    "no guidance": Request("a red apple", negative_prompt="unseen", seed=2, steps=4, guidance_scale=1.0),
    "empty prompt": Request("", seed=3, steps=3, guidance_scale=5.0),
    "long prompt": Request("very " * 100 + "red", seed=4, steps=2, guidance_scale=2.0),
    "one step": Request("一个红苹果 🍎", seed=5, steps=1, guidance_scale=7.5),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", REQUESTS)
def test_draws_diffusers_own_picture(name: str, batch: Any, tiny_checkpoint: Checkpoint) -> None:
    request = REQUESTS[name]
    theirs = StableDiffusionPipeline.from_pretrained(tiny_checkpoint.root, torch_dtype=torch.float32)
    expected = diffusers_picture(theirs, request, 16, 16)
    with reference_pipeline(tiny_checkpoint, batch) as pipeline:
        found = pipeline.generate(request).pixels
    assert expected.std() > 20
    assert psnr(expected, found, peak=255) >= 45


@pytest.mark.parametrize("make", [stable_diffusion_1, stable_diffusion_2], ids=["sd1", "sd2"])
def test_draws_the_picture_of_a_checkpoint_that_diffusers_saved(make: Any, tmp_path: Path) -> None:
    theirs = make()
    theirs.save_pretrained(tmp_path)
    request = Request("a smiling cat face", seed=11, steps=8, guidance_scale=6.0)
    expected = diffusers_picture(theirs, request, 16, 16)
    with reference_pipeline(Checkpoint.open(tmp_path)) as pipeline:
        found = pipeline.generate(request).pixels
    assert expected.std() > 5
    assert psnr(expected, found, peak=255) >= 45


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_draws_diffusers_picture_of_a_v_predicting_model(spacing: str, zero_snr: bool, tmp_path: Path) -> None:
    scheduler = SD15_SCHEDULER.model_copy(
        update={
            "prediction_type": "v_prediction",
            "timestep_spacing": spacing,
            "rescale_betas_zero_snr": zero_snr,
            "set_alpha_to_one": True,
        }
    )
    write_synthetic_checkpoint(
        tmp_path / "c",
        unet_layout=TINY_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_AUTOENCODER,
        scheduler=scheduler,
        latent_size=(8, 12),
        seed=1,
    )
    request = Request("a yellow star", seed=3, steps=8, guidance_scale=4.0)
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "c", torch_dtype=torch.float32)
    expected = diffusers_picture(theirs, request, 16, 24)
    with reference_pipeline(Checkpoint.open(tmp_path / "c")) as pipeline:
        found = pipeline.generate(request).pixels
    assert psnr(expected, found, peak=255) >= 45


@pytest.mark.parametrize("name", ["pndm", "euler-ancestral", "heun", "dpm++2m-sde-karras", "unipc", "lcm", "tcd"])
def test_draws_diffusers_picture_with_another_sampler(name: str, tiny_checkpoint: Checkpoint) -> None:
    request = Request("a red apple", seed=7, steps=5, guidance_scale=5.0, sampler=name)
    theirs = StableDiffusionPipeline.from_pretrained(tiny_checkpoint.root, torch_dtype=torch.float32)
    record = named(tiny_checkpoint.sampler, name)
    config = scheduler_config(record)
    theirs.scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    expected = diffusers_picture(theirs, request, 16, 16, eta=getattr(record, "eta", 0.0))
    with reference_pipeline(tiny_checkpoint) as pipeline:
        found = pipeline.generate(request)
    assert psnr(expected, found.pixels, peak=255) >= 45
    assert found.settings["sampler"] == name


def test_a_sampler_that_can_not_walk_the_model_is_refused_with_those_that_can(tiny_checkpoint: Checkpoint) -> None:
    with reference_pipeline(tiny_checkpoint) as pipeline:
        pure = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        sampler = named(pipeline.manifest.sampler.model_copy(update=pure), "euler")
        pipeline.manifest = pipeline.manifest.model_copy(update={"sampler": sampler})
        with pytest.raises(UsageError, match=r"'ddim' can't walk this model, .* these can: euler, .*unipc\."):
            pipeline.steps(Request("a", sampler="ddim"))
        with pytest.raises(UsageError, match="no sampler 'dreams'; expected one of ddim, pndm, "):
            pipeline.steps(Request("a", sampler="dreams"))


def test_the_loop_yields_every_step_in_order(tiny_checkpoint: Checkpoint) -> None:
    request = Request("a cat", steps=5, guidance_scale=2.0)
    with reference_pipeline(tiny_checkpoint) as pipeline:
        steps = list(pipeline.steps(request))
    assert [(step.index, step.count) for step in steps] == [(index, 5) for index in range(5)]
    assert [step.timestep for step in steps] == [801, 601, 401, 201, 1]
    for before, after in pairwise(steps):
        np.testing.assert_array_equal(after.calls[0].inputs["latents"][:1], before.latents)
    assert all(step.seconds > 0 for step in steps)


def test_a_caller_may_stop_early_and_look_at_each_prediction(tiny_checkpoint: Checkpoint) -> None:
    with reference_pipeline(tiny_checkpoint) as pipeline:
        for step in pipeline.steps(Request("a cat", steps=8)):
            if step.index == 1:
                break
        assert pipeline.decode(step.denoised).shape == (1, 3, 16, 16)


def test_given_latents_replace_the_seeds(tiny_checkpoint: Checkpoint) -> None:
    from sfmobile.sampling.noise import initial_latents

    with reference_pipeline(tiny_checkpoint) as pipeline:
        noise = initial_latents(5, pipeline.latent_shape())
        given = list(pipeline.steps(Request("a cat", seed=0, steps=2), noise))[-1]
        seeded = list(pipeline.steps(Request("a cat", seed=5, steps=2)))[-1]
    np.testing.assert_array_equal(given.latents, seeded.latents)


def test_defaults_are_the_manifests(tiny_checkpoint: Checkpoint) -> None:
    seen: list[Step] = []
    with reference_pipeline(tiny_checkpoint) as pipeline:
        picture = pipeline.generate(Request("a cat"), seen.append)
    assert len(seen) == DEFAULT_STEPS
    assert (picture.settings["steps"], picture.settings["guidance_scale"]) == (8, 7.5)


def test_settings_say_all_that_is_needed_to_draw_it_again(tiny_checkpoint: Checkpoint) -> None:
    request = Request("cat " * 100, negative_prompt="dog " * 90, seed=9, steps=2, guidance_scale=2.5)
    with reference_pipeline(tiny_checkpoint) as pipeline:
        settings = dict(pipeline.generate(request).settings)
    assert settings.pop("runtime").startswith("torch fp32")
    assert settings == {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": 9,
        "steps": 2,
        "guidance_scale": 2.5,
        "sampler": "ddim",
        "model": "tiny",
        "source_sha256": "0" * 64,
        "prompt_tokens_dropped": 300 - 75,
        "negative_prompt_tokens_dropped": 270 - 75,
    }


@pytest.mark.parametrize(
    "request_",
    [
        Request("a", steps=0),
        Request("a", steps=-3),
        Request("a", steps=1001),
        Request("a", guidance_scale=-1.0),
        Request("a", seed=-1),
        Request("\ud800"),
        Request("a", negative_prompt="\ud800"),
    ],
    ids=[
        "no steps",
        "negative steps",
        "too many steps",
        "negative scale",
        "negative seed",
        "prompt",
        "negative prompt",
    ],
)
def test_a_bad_request_is_refused_before_anything_is_loaded(request_: Request, tiny_checkpoint: Checkpoint) -> None:
    class Untouched:
        def describe(self) -> str:
            return "untouched"

        def load(self, name: str) -> Any:
            raise AssertionError(f"{name} was loaded")

    pipeline = reference_pipeline(tiny_checkpoint)
    pipeline.runtime = Untouched()
    with pytest.raises(UsageError):
        pipeline.steps(request_)


def test_components_are_freed_when_their_part_is_done_if_asked(tiny_checkpoint: Checkpoint) -> None:
    request = Request("a cat", steps=2)
    with reference_pipeline(tiny_checkpoint, keep_loaded=False) as frugal, reference_pipeline(tiny_checkpoint) as kept:
        pictures = [frugal.generate(request), frugal.generate(request), kept.generate(request)]
        assert not frugal._loaded
        assert set(kept._loaded) == {"text_encoder", "unet", "decoder"}
    assert all(np.array_equal(picture.pixels, pictures[0].pixels) for picture in pictures)
    assert not kept._loaded


def test_a_snapfusion_checkpoint_draws_too(tiny_snapfusion_checkpoint: Checkpoint) -> None:
    assert isinstance(tiny_snapfusion_checkpoint.unet_layout, UNetLayout)
    with reference_pipeline(tiny_snapfusion_checkpoint) as pipeline:
        picture = pipeline.generate(Request("a cat", steps=3))
    assert picture.pixels.shape == (16, 16, 3)
    assert picture.pixels.std() > 5
