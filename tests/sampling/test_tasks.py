"""Every task against diffusers' own pipeline of it, at every step, from the same seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.given import Given, pasted
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.sampling.samplers.named import NAMES
from sfmobile.signal import psnr
from tests.checkpoint.families import NETWORKS_ONLY, TEXT_TO_IMAGE, XL, Family, blocks, write_family
from tests.sampling.pipelines import reference_pipeline
from tests.sampling.recorded import recorder

GATE_DB = 80.0
SIDE = 64


def small(family: Family) -> Family:
    return replace(family, unet={**family.unet, **blocks("x."), "layers_per_block": 1})


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random checkpoint for each task, saved by diffusers."""
    families = {
        "plain": TEXT_TO_IMAGE["SD 1.x"],
        "consistency": TEXT_TO_IMAGE["LCM"],
        "inpainting": NETWORKS_ONLY["inpainting"],
        "editing": NETWORKS_ONLY["InstructPix2Pix"],
    }
    xl = {
        "xl": XL["SDXL"],
        "xl-inpainting": replace(
            XL["SDXL"],
            pipeline="StableDiffusionXLInpaintPipeline",
            unet={**XL["SDXL"].unet, "in_channels": 9, "layers_per_block": 1},
        ),
    }
    folder: Path = tmp_path_factory.mktemp("tasks")
    return {
        **{name: write_family(small(family), folder / name) for name, family in families.items()},
        **{name: write_family(family, folder / name) for name, family in xl.items()},
    }


def picture() -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    pixels = np.stack([rows, columns, np.sin(9 * rows * columns) / 2 + 0.5], axis=-1)
    return np.round(255 * pixels).astype(np.uint8)


def mask() -> np.ndarray:
    covered = np.zeros((SIDE, SIDE), bool)
    # Not on the latents' grid.
    covered[13:45, 20:51] = True
    return covered


def opened(root: Path, batch: Any = 2) -> TextToImage:
    checkpoint = Checkpoint.open(root)
    return reference_pipeline(checkpoint.with_components(["encoder"]), batch)


# diffusers' classes of our samplers' names, on the checkpoint's own scheduler's constants.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2m-sde-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm++2s": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


@dataclass
class Theirs:
    """A run of diffusers: latents behind every step, and the picture."""

    latents: list[np.ndarray]
    picture: np.ndarray


@cache
def loaded(name: str, root: Path) -> Any:
    options: dict[str, Any] = {"add_watermarker": False} if "XL" in name else {"safety_checker": None}
    pipeline = getattr(diffusers, name).from_pretrained(root, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(name: str, root: Path, request: Request, **options: Any) -> Theirs:
    pipeline = loaded(name, root)
    own = DDIMScheduler.from_pretrained(root / "scheduler").config
    kind, constants = SCHEDULERS[request.sampler or "ddim"]
    pipeline.scheduler = getattr(diffusers, kind).from_config(own, **constants)
    latents, keep = recorder()
    # The consistency pipelines have no negative prompt, and to those of XL one of no words is another than none.
    without = "Consistency" in name or ("XL" in name and not request.negative_prompt)
    negative = {} if without else {"negative_prompt": request.negative_prompt}
    result = pipeline(
        request.prompt,
        image=Image.fromarray(picture()),
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        callback_on_step_end=keep,
        output_type="pil",
        **negative,
        **options,
    )
    return Theirs(latents, np.asarray(result.images[0]))


def follows(pipeline: TextToImage, request: Request, expected: Theirs, gate: float = GATE_DB) -> None:
    """Our run, step by step; one that is as close as float32 makes it, whatever the latents' size."""
    steps = list(pipeline.steps(request))
    assert pipeline.calls(request) == len(steps) == len(expected.latents)
    for step, latents in zip(steps, expected.latents, strict=True):
        assert psnr(latents, step.latents) >= gate, f"step {step.index + 1} of {step.count}"
    found = pipeline.finished(replace(request, given=replace_paste(request.given)), steps[-1].latents)
    assert expected.picture.std() > 5
    assert psnr(expected.picture, found.pixels, peak=255) >= 45


def replace_paste(given: Given | None) -> Given | None:
    """diffusers pastes nothing back unless it is asked to."""
    return None if given is None else replace(given, paste=False)


REQUEST = Request("a red apple", negative_prompt="green", seed=3, steps=6, guidance_scale=5.0)


# 0.84 of 6 steps leaves out one: where PNDM's list tells the first timestep twice.
@pytest.mark.parametrize(
    ("sampler", "strength"),
    [*((name, 0.5) for name in SCHEDULERS), ("ddim", 1.0), *(("pndm", share) for share in (1.0, 0.84)), ("heun", 0.84)],
)
def test_image_to_image_is_diffusers_own_at_every_step(sampler: str, strength: float, roots: dict[str, Path]) -> None:
    request = replace(REQUEST, sampler=sampler, given=Given(picture(), strength=strength))
    # The pipeline tells TCD its own eta, 0 unless asked.
    options = {"eta": 0.3} if sampler == "tcd" else {}
    expected = theirs("StableDiffusionImg2ImgPipeline", roots["plain"], request, strength=strength, **options)
    with opened(roots["plain"]) as pipeline:
        follows(pipeline, request, expected)


def test_every_sampler_is_held_to_diffusers_from_a_picture() -> None:
    kinds = {name.removesuffix("-karras").removesuffix("-sde") for name in NAMES}
    assert kinds == {name.removesuffix("-karras").removesuffix("-sde") for name in SCHEDULERS}


@pytest.mark.parametrize("strength", [0.8, 0.4])
def test_a_consistency_model_starts_from_a_picture_as_its_own_pipeline(strength: float, roots: dict[str, Path]) -> None:
    request = replace(REQUEST, negative_prompt="", steps=4, sampler="lcm", given=Given(picture(), strength=strength))
    expected = theirs("LatentConsistencyModelImg2ImgPipeline", roots["consistency"], request, strength=strength)
    with opened(roots["consistency"], 1) as pipeline:
        follows(pipeline, request, expected)


@pytest.mark.parametrize(
    ("sampler", "strength"),
    [("ddim", 1.0), *((name, 0.5) for name in ("ddim", "pndm", "euler", "heun", "dpm++2m"))],
)
def test_repainting_with_an_ordinary_unet_is_diffusers_own(
    sampler: str, strength: float, roots: dict[str, Path]
) -> None:
    request = replace(REQUEST, sampler=sampler, given=Given(picture(), mask(), strength))
    options = {"strength": strength, "mask_image": Image.fromarray(mask()), "height": SIDE, "width": SIDE}
    expected = theirs("StableDiffusionInpaintPipeline", roots["plain"], request, **options)
    with opened(roots["plain"]) as pipeline:
        follows(pipeline, request, expected)


@pytest.mark.parametrize(
    ("sampler", "strength", "batch"), [("ddim", 1.0, 2), ("ddim", 0.5, 1), ("euler", 1.0, 1), ("euler", 0.5, 2)]
)
def test_inpainting_with_a_unet_of_nine_channels_is_diffusers_own(
    sampler: str, strength: float, batch: int, roots: dict[str, Path]
) -> None:
    request = replace(REQUEST, sampler=sampler, given=Given(picture(), mask(), strength))
    options = {"strength": strength, "mask_image": Image.fromarray(mask()), "height": SIDE, "width": SIDE}
    expected = theirs("StableDiffusionInpaintPipeline", roots["inpainting"], request, **options)
    with opened(roots["inpainting"], batch) as pipeline:
        follows(pipeline, request, expected)


@pytest.mark.parametrize("negative", ["green", ""])
def test_an_xl_starts_from_a_picture_as_its_own_pipeline(negative: str, roots: dict[str, Path]) -> None:
    request = replace(REQUEST, negative_prompt=negative, sampler="euler", given=Given(picture(), strength=0.5))
    expected = theirs("StableDiffusionXLImg2ImgPipeline", roots["xl"], request, strength=0.5)
    with opened(roots["xl"]) as pipeline:
        follows(pipeline, request, expected)


@pytest.mark.parametrize(
    ("root", "strength", "batch"),
    [("xl", 0.5, 2), ("xl", 1.0, 1), ("xl-inpainting", 1.0, 2), ("xl-inpainting", 0.5, 1)],
)
def test_an_xl_repaints_as_its_own_pipeline(root: str, strength: float, batch: int, roots: dict[str, Path]) -> None:
    request = replace(REQUEST, sampler="euler", given=Given(picture(), mask(), strength))
    options = {"strength": strength, "mask_image": Image.fromarray(mask()), "height": SIDE, "width": SIDE}
    expected = theirs("StableDiffusionXLInpaintPipeline", roots[root], request, **options)
    with opened(roots[root], batch) as pipeline:
        follows(pipeline, request, expected)


# Guided by both, by both as little as can be, and by neither, as diffusers has it where one scale is small.
@pytest.mark.parametrize(
    ("sampler", "scale", "by_picture", "batch"),
    [
        ("ddim", 5.0, 1.5, 1),
        ("euler", 5.0, 1.5, 2),
        ("ddim", 5.0, 1.0, 2),
        ("ddim", 1.0, 1.5, 2),
        ("ddim", 5.0, 0.5, 1),
    ],
)
def test_editing_by_instruction_is_diffusers_own(
    sampler: str, scale: float, by_picture: float, batch: int, roots: dict[str, Path]
) -> None:
    given = Given(picture(), picture_guidance=by_picture)
    request = replace(REQUEST, sampler=sampler, guidance_scale=scale, given=given)
    options = {"image_guidance_scale": by_picture}
    expected = theirs("StableDiffusionInstructPix2PixPipeline", roots["editing"], request, **options)
    with opened(roots["editing"], batch) as pipeline:
        follows(pipeline, request, expected)


def test_three_rows_take_three_calls_or_two(roots: dict[str, Path]) -> None:
    request = replace(REQUEST, steps=1, given=Given(picture()))
    rows = {}
    for batch in (1, 2):
        with opened(roots["editing"], batch) as pipeline:
            (step,) = pipeline.steps(request)
        rows[batch] = np.concatenate([call.inputs["latents"] for call in step.calls])
        assert len(step.calls) == {1: 3, 2: 2}[batch]
    assert np.array_equal(rows[2], rows[1][[0, 1, 2, 2]])
    # No picture in the first row, the same in the others.
    assert not rows[1][0, 4:].any() and rows[1][1, 4:].any() and np.array_equal(rows[1][1], rows[1][2])


def test_what_a_mask_does_not_cover_comes_back_unchanged() -> None:
    given = Given(picture(), mask())
    drawn = 255 - given.picture
    found = pasted(drawn, given)
    assert np.array_equal(found[~mask()], given.picture[~mask()])
    # Within, the edge is soft, and behind it all is drawn.
    inner = np.zeros_like(mask())
    inner[16:42, 23:48] = True
    assert np.array_equal(found[inner], drawn[inner])
    edge = mask() & ~inner
    assert (found[edge] != drawn[edge]).any() and (found[edge] != given.picture[edge]).any()
    assert np.array_equal(pasted(drawn, replace(given, paste=False)), drawn)
    everything = Given(picture(), np.ones_like(mask()))
    assert np.array_equal(pasted(drawn, everything), drawn)


REFUSED: dict[str, tuple[str, Given | None, type[Exception], str]] = {
    "no mask for an inpainting model": ("inpainting", Given(picture()), UsageError, "give one .--mask."),
    "no picture for an inpainting model": ("inpainting", None, UsageError, "give a picture and its mask"),
    "no picture for a model that edits": ("editing", None, UsageError, "edits a picture; give one"),
    "a mask for a model that edits": ("editing", Given(picture(), mask()), UsageError, "takes no mask"),
    "a strength for a model that edits": ("editing", Given(picture(), strength=0.5), UsageError, "--image-guidance"),
    "picture guidance elsewhere": ("plain", Given(picture(), picture_guidance=2.0), UsageError, "isn't guided by"),
    "negative picture guidance": ("editing", Given(picture(), picture_guidance=-1.0), UsageError, "makes no sense"),
    "strength 0": ("plain", Given(picture(), strength=0.0), UsageError, "strength 0 makes no sense"),
    "strength above 1": ("plain", Given(picture(), strength=1.5), UsageError, "strength 1.5 makes no sense"),
    "another size": ("plain", Given(picture()[:32]), UsageError, "draws 64x64 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_task_can_not_do_is_refused_before_anything_runs(name: str, roots: dict[str, Path]) -> None:
    task, given, error, message = REFUSED[name]
    with opened(roots[task]) as pipeline, pytest.raises(error, match=message):
        pipeline.steps(replace(REQUEST, given=given))


def test_a_bundle_without_the_encoder_says_how_it_gets_one(roots: dict[str, Path]) -> None:
    message = r"without the image encoder.*--component encoder"
    with reference_pipeline(Checkpoint.open(roots["plain"])) as pipeline, pytest.raises(ArtifactError, match=message):
        pipeline.steps(replace(REQUEST, given=Given(picture())))
