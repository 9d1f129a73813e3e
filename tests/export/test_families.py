"""What the families add to the networks, as Core ML programs on `mil`: one export for each new structure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exported import export_checkpoint
from sfmobile.export.options import ExportOptions
from sfmobile.observer import Observer
from sfmobile.runtime.opening import open_runtime
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.signal import psnr
from sfmobile.verify.diffusers_reference import compare_reading
from sfmobile.verify.recording import Recorder
from sfmobile.verify.runs import call_again, excited_reference
from sfmobile.verify.verification import compare_calls
from tests.checkpoint.families import NETWORKS_ONLY, TEXT_TO_IMAGE, Family, blocks, write_family
from tests.sampling.pipelines import reference_pipeline

GATE_DB = 55.0


def small(family: Family) -> Family:
    """The family with a UNet of two levels: what is new is not in how many there are."""
    heads = family.unet.get("attention_head_dim", 4)
    heads = heads[:2] if isinstance(heads, tuple) else heads
    return replace(family, unet={**family.unet, **blocks("x."), "layers_per_block": 1, "attention_head_dim": heads})


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def exported(family: Family, tmp_path: Path, **options: object) -> tuple[Checkpoint, Bundle, list[str]]:
    checkpoint = Checkpoint.open(write_family(family, tmp_path / "checkpoint"))
    observer = Notes()
    made = export_checkpoint(
        checkpoint,
        tmp_path / "bundle",
        ExportOptions(**options),
        golden=False,
        observer=observer,  # type: ignore[arg-type]
    )
    return checkpoint, Bundle.open(made.root), observer.notes


def test_the_guidance_scale_reaches_the_program_from_the_host(tmp_path: Path) -> None:
    checkpoint, bundle, _ = exported(small(TEXT_TO_IMAGE["LCM"]), tmp_path, components=("unet",))
    manifest = bundle.manifest
    assert (manifest.pipeline.family, manifest.pipeline.default_steps) == ("latent-consistency", 4)
    assert manifest.guidance.batch == 1 and manifest.guidance.default_scale == 8.5
    with open_runtime("mil", bundle).load("unet") as program, reference_pipeline(checkpoint, 1) as ours:
        outputs = []
        for scale in (1.0, 8.5):
            (call,) = next(ours.steps(Request("a red apple", "not read", 3, 2, scale))).calls
            outputs.append(program.predict(call.inputs)["model_output"])
            assert psnr(call.model_output, outputs[-1]) > GATE_DB
    assert psnr(*outputs) < GATE_DB - 5


@pytest.mark.parametrize("name", NETWORKS_ONLY)
def test_a_unet_of_another_task_is_a_component(name: str, tmp_path: Path) -> None:
    checkpoint, bundle, _ = exported(small(NETWORKS_ONLY[name]), tmp_path, components=("unet",))
    assert not bundle.manifest.can_draw
    recorder = Recorder(open_runtime("torch", bundle))
    reference = excited_reference(bundle, recorder, lambda _: None, ("unet",))
    assert {call.component for call in reference.calls} == {"unet"} and not reference.requests
    with open_runtime("mil", bundle).load("unet") as unet:
        assert unet.inputs[0].shape[1] == checkpoint.unet_layout.in_channels != bundle.manifest.latents.channels
        for call in reference.calls:
            assert compare_calls(call, call_again(unet, call)).closeness > GATE_DB


def test_a_tiny_decoder_is_a_component(tmp_path: Path) -> None:
    checkpoint, bundle, _ = exported(TEXT_TO_IMAGE["TAESD"], tmp_path, components=("decoder",))
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    with open_runtime("mil", bundle).load("decoder") as decoder:
        found = decoder.predict({"latents": latents})["image"]
    with torch.inference_mode():
        expected = checkpoint.load("decoder")(torch.from_numpy(latents)).numpy()
    assert psnr(expected, found) > GATE_DB


def test_what_is_left_out_is_said_and_skipped_layers_are_recorded(tmp_path: Path) -> None:
    family = small(TEXT_TO_IMAGE["image-to-image class"])
    _, bundle, notes = exported(family, tmp_path, components=("text_encoder",), clip_skip=1, default_steps=5)
    assert any("begins with a picture; the bundle draws from text alone" in note for note in notes)
    assert bundle.manifest.pipeline.text.skipped_layers == 1
    assert bundle.manifest.pipeline.default_steps == 5
    runtime = open_runtime("torch", bundle)
    ids = np.zeros((1, 77), np.int32)
    with runtime.load("text_encoder") as reference, open_runtime("mil", bundle).load("text_encoder") as program:
        expected = reference.predict({"input_ids": ids})["encoder_hidden_states"]
        assert psnr(expected, program.predict({"input_ids": ids})["encoder_hidden_states"]) > GATE_DB


# Each new structure of networks in one of them; a sampler's or a tokenizer's constants change no program.
STRUCTURES = {
    "SD 2.x 768-v": TEXT_TO_IMAGE["SD 2.x 768-v"],
    "BK-SDM small with TAESD": replace(TEXT_TO_IMAGE["BK-SDM small, small-sd"], tiny_autoencoder=True),
    "LCM": TEXT_TO_IMAGE["LCM"],
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_family_is_drawn_whole_by_its_packages_as_diffusers_draws_it(name: str, tmp_path: Path) -> None:
    checkpoint, bundle, _ = exported(small(STRUCTURES[name]), tmp_path, attention="original")
    with TextToImage.of_bundle(bundle, open_runtime("mil", bundle)) as packages:
        stages = compare_reading(checkpoint, packages, Request("a red apple", "green", 3, 2))
    picture = next(stage for stage in stages if stage.input == "picture")
    assert picture.agreement.closeness >= GATE_DB, stages
