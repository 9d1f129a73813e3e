"""Every family of the table in the README, against diffusers at every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.sizes import Sizes
from sfmobile.verify.diffusers_reference import READING_GATE_DB, compare_reading
from tests.checkpoint.families import NETWORKS_ONLY, TEXT_TO_IMAGE, XL, Family, write_family
from tests.checkpoint.test_directory import rewrite_json
from tests.sampling.pipelines import reference_pipeline

# Where a file says nothing of steps and guidance.
ANSWERS = {"SD-Turbo": (1, 0.0)}


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_a_family_is_drawn_as_diffusers_does_at_every_step(name: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_family(TEXT_TO_IMAGE[name], tmp_path)).with_defaults(
        *ANSWERS.get(name, (None, None))
    )
    steps = None if name in ANSWERS else 3
    with reference_pipeline(checkpoint) as ours:
        request = Request("a red apple, " * 40 if name == "LongCLIP" else "a red apple", "green", 3, steps)
        stages = compare_reading(checkpoint, ours, request)
    assert len(stages) >= 4
    worst = min(stages, key=lambda stage: stage.agreement.closeness)
    assert worst.agreement.closeness >= READING_GATE_DB, worst


@pytest.mark.parametrize("name", XL)
def test_an_xl_is_drawn_as_diffusers_does_at_every_step(name: str, tmp_path: Path) -> None:
    answers = {"SDXL-Lightning": (4, 0.0), "LCM-SDXL": (4, 8.5)}
    checkpoint = Checkpoint.open(write_family(XL[name], tmp_path)).with_defaults(*answers.get(name, (None, None)))
    assert checkpoint.pipeline.family == "stable-diffusion-xl" and checkpoint.pipeline.task == "text-to-image"
    if name == "SDXL-Turbo":
        assert (checkpoint.default_steps, checkpoint.guidance_scale) == (1, 0.0)
    negative = "" if name in ("SDXL", "SDXL, no zeros") else "green"
    sizes = Sizes((1024, 768), (0, 8), (64, 72)) if name == "SDXL" else Sizes()
    request = Request("a red apple", negative, 3, 2, sizes=sizes)
    with reference_pipeline(checkpoint) as ours:
        stages = compare_reading(checkpoint, ours, request)
    guided = checkpoint.guidance_scale > 1 and not checkpoint.pipeline.takes_guidance
    assert [stage.input for stage in stages].count("negative prompt: pooled") == guided
    worst = min(stages, key=lambda stage: stage.agreement.closeness)
    assert worst.agreement.closeness >= READING_GATE_DB, worst


@pytest.mark.parametrize("name", NETWORKS_ONLY)
def test_a_family_of_another_task_asks_for_a_picture(name: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_family(NETWORKS_ONLY[name], tmp_path))
    assert checkpoint.pipeline.task != "text-to-image"
    # A depth model takes more than a picture, which nothing here makes.
    drawn = name != "depth"
    assert ("encoder" in checkpoint.pipeline.components) == drawn
    refusal = "--image" if drawn else "sfmobile can't run yet"
    with pytest.raises(UsageError, match=refusal), reference_pipeline(checkpoint) as ours:
        ours.steps(Request("a red apple"))


@pytest.mark.parametrize("skipped", [1, 2])
def test_clip_skip_is_diffusers(skipped: int, tmp_path: Path) -> None:
    root = write_family(TEXT_TO_IMAGE["SD 2.x"], tmp_path)
    checkpoint = Checkpoint.open(root).with_clip_skip(skipped)
    with reference_pipeline(checkpoint) as ours:
        stages = compare_reading(checkpoint, ours, Request("a red apple", "green", 3, 2))
    worst = min(stages, key=lambda stage: stage.agreement.closeness)
    assert worst.agreement.closeness >= READING_GATE_DB, worst
    assert Checkpoint.open(root).sha256("text_encoder") != checkpoint.sha256("text_encoder")


def test_a_depth_unet_is_networks_of_its_task(tmp_path: Path) -> None:
    # diffusers' own pipeline would want a depth estimator beside it.
    root = write_family(Family(unet={"in_channels": 5}), tmp_path)
    with pytest.raises(ArtifactError, match="such as StableDiffusionDepth2ImgPipeline"):
        Checkpoint.open(root)
    rewrite_json(root / "model_index.json", _class_name="StableDiffusionDepth2ImgPipeline")
    checkpoint = Checkpoint.open(root)
    assert checkpoint.pipeline.task == "depth-to-image"
    with pytest.raises(UsageError, match="is for depth-to-image, which sfmobile can't run yet"):
        reference_pipeline(checkpoint)
