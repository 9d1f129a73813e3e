from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.layout import Stage
from sfmobile.sampling.control import Control
from sfmobile.sampling.pipeline import Request, Step
from sfmobile.signal import psnr
from sfmobile.verify.diffusers_reference import why_not
from tests.controlnets import write_controlnet
from tests.sampling.pipelines import reference_pipeline
from tests.sampling.recorded import recorder
from tests.tiny import TINY_UNET

REQUEST = Request("a red apple", "blurry", seed=3, steps=4, guidance_scale=5.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root: Path = tmp_path_factory.mktemp("controlnets")
    for seed, name in enumerate(("edges", "depth")):
        write_controlnet(root / name, seed)
    return {name: root / name for name in ("edges", "depth")}


@pytest.fixture(scope="module")
def controlled(tiny_checkpoint: Checkpoint, folders: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint.root, control=[f"{name}={folder}" for name, folder in folders.items()])


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)


def walked(checkpoint: Checkpoint, request: Request, batch: Literal[1, 2] = 2) -> list[Step]:
    with reference_pipeline(checkpoint, batch) as pipeline:
        return list(pipeline.steps(request))


def theirs(checkpoint: Checkpoint, folders: dict[str, Path], request: Request) -> list[np.ndarray]:
    """Latents behind each step of diffusers' pipeline."""
    nets = [ControlNetModel.from_pretrained(folders[control.name]) for control in request.controls]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        checkpoint.root, controlnet=nets, torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    found, keep = recorder()
    pipeline(
        request.prompt,
        image=[torch.from_numpy(control.picture) for control in request.controls],
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        controlnet_conditioning_scale=[control.scale for control in request.controls],
        control_guidance_start=[control.start for control in request.controls],
        control_guidance_end=[control.end for control in request.controls],
        generator=torch.Generator().manual_seed(request.seed),
        height=16,
        width=16,
        output_type="latent",
        callback_on_step_end=keep,
    )
    return found


CONTROLS = {
    "one": (Control("edges", picture(0)),),
    "scaled": (Control("depth", picture(1), scale=0.4),),
    "for some steps": (Control("edges", picture(2), start=0.25, end=0.75),),
    "two": (Control("edges", picture(3), scale=0.7, end=0.5), Control("depth", picture(4), scale=1.2)),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CONTROLS)
def test_walks_as_diffusers_at_every_step(
    name: str,
    batch: Literal[1, 2],
    controlled: Checkpoint,
    tiny_checkpoint: Checkpoint,
    folders: dict[str, Path],
) -> None:
    request = replace(REQUEST, controls=CONTROLS[name])
    expected = theirs(tiny_checkpoint, folders, request)
    found = walked(controlled, request, batch)
    for step, latents in zip(found, expected, strict=True):
        assert psnr(latents, step.latents) >= 80
    assert psnr(walked(tiny_checkpoint, REQUEST)[-1].latents, found[-1].latents) < 60


def test_without_a_picture_the_unet_draws_what_it_drew(controlled: Checkpoint, tiny_checkpoint: Checkpoint) -> None:
    for plain, under_control in zip(walked(tiny_checkpoint, REQUEST), walked(controlled, REQUEST), strict=True):
        np.testing.assert_array_equal(under_control.latents, plain.latents)


def test_diffusers_reads_what_no_picture_controls(controlled: Checkpoint) -> None:
    assert why_not(controlled) is None


def test_components_and_residuals_are_as_the_layout_says(controlled: Checkpoint) -> None:
    pipeline = controlled.pipeline
    assert pipeline.components == ("text_encoder", "control_depth", "control_edges", "unet", "decoder")
    assert pipeline.residuals is not None
    assert pipeline.residuals.components == ("control_edges", "control_depth")
    assert pipeline.residuals.count == len(TINY_UNET.residuals()) == 5


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (Control("pose", picture(0)), r"no ControlNet 'pose' \(its are edges, depth\); export it with --control"),
        (Control("edges", picture(0)[..., :8]), r"has the shape \(1, 3, 16, 8\); expected \(1, 3, 16, 16\)"),
        (Control("edges", picture(0), scale=float("nan")), "The scale nan of 'edges' makes no sense"),
        (Control("edges", picture(0), start=0.5, end=0.5), "from 0.5 to 0.5 of the steps"),
        (Control("edges", picture(0), end=1.5), "from 0.0 to 1.5 of the steps"),
    ],
)
def test_what_cannot_control_is_refused_before_anything_is_loaded(
    control: Control, said: str, controlled: Checkpoint
) -> None:
    with reference_pipeline(controlled) as pipeline, pytest.raises(UsageError, match=said):
        pipeline.steps(replace(REQUEST, controls=(control,)))


def test_a_bundle_without_a_controlnet_says_so(tiny_checkpoint: Checkpoint) -> None:
    request = replace(REQUEST, controls=CONTROLS["one"])
    with reference_pipeline(tiny_checkpoint) as pipeline, pytest.raises(UsageError, match=r"'edges' \(it has none\)"):
        pipeline.steps(request)


OTHER_WIDTH = replace(
    TINY_UNET, down=(Stage(32, 1, 1), Stage(96, 1, 0)), mid=Stage(96, 2, 1), up=(Stage(96, 2, 0), Stage(32, 2, 2))
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"layout": OTHER_WIDTH},
            r"'controlnet_down_blocks.3' gives 96 channels, halved 1 times and the UNet takes 64 channels, halved 1",
        ),
        ({"cross_attention_dim": 24}, "'cross_attention_dim' is 24 and the UNet's is 32"),
        ({"in_channels": 5}, "'in_channels' is 5 and the UNet's is 4"),
        ({"conditioning_embedding_out_channels": (4, 8, 8)}, "shrink a picture 4 times and the latents are 2 times"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "'controlnet_conditioning_channel_order' is 'bgr'"),
        ({"global_pool_conditions": True}, "'global_pool_conditions' is True"),
    ],
)
def test_a_controlnet_of_another_model_is_refused_by_its_first_layer(
    changes: dict[str, Any], said: str, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_controlnet(tmp_path / "net", **changes)
    with pytest.raises(ArtifactError, match=said):
        open_checkpoint(tiny_checkpoint.root, control=[f"net={tmp_path / 'net'}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edges", "--control edges names no ControlNet; expected NAME=DIR"),
        ("Big Name=somewhere", "'Big Name' can't name a ControlNet"),
    ],
)
def test_a_controlnet_needs_a_name_and_a_directory(text: str, said: str, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=said):
        open_checkpoint(tiny_checkpoint.root, control=[text])


def test_what_is_no_controlnet_or_is_not_there_is_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a ControlNet of class ControlNetModel, found UNet2DCondition"):
        open_checkpoint(tiny_checkpoint.root, control=[f"net={tiny_checkpoint.root / 'unet'}"])
    with pytest.raises(ArtifactError, match=r"nowhere.config\.json"):
        open_checkpoint(tiny_checkpoint.root, control=[f"net={tmp_path / 'nowhere'}"])


def test_two_of_one_name_are_refused(tiny_checkpoint: Checkpoint, folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="Two ControlNets have one name"):
        open_checkpoint(tiny_checkpoint.root, control=[f"net={folder}" for folder in folders.values()])
