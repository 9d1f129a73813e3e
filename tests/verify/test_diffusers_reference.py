"""Our reading of a checkpoint against diffusers' own pipeline, stage by stage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler
from safetensors.torch import save_file

from sfmobile.bench.verify_report import SampleAgreement
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.verify.constants import reference_pipeline
from sfmobile.verify.diffusers_reference import READING_GATE_DB, compare_reading, why_not
from tests.checkpoint.diffusers_files import stable_diffusion_1, stable_diffusion_2
from tests.sampling.pipelines import reference_pipeline as sampled

REQUEST = Request("a red apple", "blurry", seed=3, steps=3)
# By the second diffusers knows the text encoder's layers in kohya's file.
TEXT_LAYERS = ("q_proj", "out_proj")


def read(checkpoint: Checkpoint, bundle: Bundle, request: Request = REQUEST) -> dict[str, SampleAgreement]:
    with TextToImage.of_bundle(bundle, TorchRuntime(bundle, checkpoint)) as pipeline:
        return {stage.input: stage for stage in compare_reading(checkpoint, pipeline, request)}


def test_every_stage_of_a_run_agrees(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    check(tiny_bundle, tiny_checkpoint)


def test_every_stage_agrees_where_diffusers_wrote_the_checkpoint(tmp_path: Path) -> None:
    """Of another text encoder, prediction and head width."""
    stable_diffusion_2().save_pretrained(tmp_path / "source")
    checkpoint = Checkpoint.open(tmp_path / "source")
    check(export_bundle(checkpoint, tmp_path / "bundle", ExportOptions()), checkpoint)


def test_every_call_of_another_sampler_agrees(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """PNDM, as Stable Diffusion 1 has it: by the checkpoint's constants, as verify reads, whatever a bundle says."""
    root = Path(shutil.copytree(tiny_checkpoint.root, tmp_path / "source"))
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    PNDMScheduler(**betas, skip_prk_steps=True, steps_offset=1).save_config(root / "scheduler")
    index = json.loads((root / "model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "PNDMScheduler"]}))
    checkpoint = Checkpoint.open(root)
    with reference_pipeline(tiny_bundle, checkpoint, TorchRuntime(tiny_bundle, checkpoint)) as pipeline:
        check_stages(checkpoint, {one.input: one for one in compare_reading(checkpoint, pipeline, REQUEST)})


def check(bundle: Bundle, checkpoint: Checkpoint) -> None:
    assert why_not(checkpoint) is None
    check_stages(checkpoint, read(checkpoint, bundle))


def check_stages(checkpoint: Checkpoint, stages: dict[str, SampleAgreement]) -> None:
    # PNDM makes one call more than steps.
    calls = range(1, 5 if checkpoint.sampler.kind == "pndm" else 4)
    assert list(stages) == [
        *(f"{text}: {what}" for text in ("prompt", "negative prompt") for what in ("tokens", "embedding")),
        *(f"step {number} of {len(calls)}" for number in calls),
        "image",
        "picture",
    ]
    assert all(stage.agreement.reaches(READING_GATE_DB) for stage in stages.values())
    assert stages["prompt: tokens"].agreement.identical and stages["picture"].agreement.identical


def test_a_misread_checkpoint_is_caught_at_the_stage_where_it_starts(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """What both sides of our own comparison would share: here a beta that only diffusers reads."""
    root = Path(shutil.copytree(tiny_checkpoint.root, tmp_path / "source"))
    path = root / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.02}))
    stages = read(Checkpoint.open(root), tiny_bundle)
    off = [name for name, stage in stages.items() if not stage.agreement.reaches(READING_GATE_DB)]
    assert off[0] == "step 1 of 3"


def test_what_is_laid_over_a_checkpoint_is_laid_over_it_by_diffusers_too(tmp_path: Path) -> None:
    theirs = stable_diffusion_1()
    theirs.save_pretrained(tmp_path / "base")
    width = theirs.text_encoder.config.hidden_size
    lora = tmp_path / "lora.safetensors"
    unet = low_rank("unet", theirs.unet, "to_q")
    save_file(kohya({**unet, **low_rank("text_encoder.text_model", theirs.text_encoder, TEXT_LAYERS)}), lora)
    save_file({"<toy>": torch.randn(2, width)}, tmp_path / "toy.safetensors")
    torch.manual_seed(5)
    other = AutoencoderKL.from_config(theirs.vae.config)
    other.save_pretrained(tmp_path / "vae")
    checkpoint = open_checkpoint(
        tmp_path / "base", lora=[f"{lora}:0.8"], embedding=[tmp_path / "toy.safetensors"], vae=tmp_path / "vae"
    )
    assert why_not(checkpoint) is None
    with sampled(checkpoint) as pipeline:
        stages = {stage.input: stage for stage in compare_reading(checkpoint, pipeline, REQUEST)}
        check_stages(checkpoint, stages)
        # Left out on one side, each is seen where it begins.
        bare = Checkpoint.open(tmp_path / "base")
        seen = {stage.input: stage for stage in compare_reading(bare, pipeline, REQUEST)}
        off = [name for name, stage in seen.items() if not stage.agreement.reaches(READING_GATE_DB)]
        assert off[0] == "prompt: embedding" and {"step 1 of 4", "image"} <= set(off)


def low_rank(prefix: str, net: torch.nn.Module, layer: str | tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 on every such layer of `net`, by peft's names."""
    found = {}
    for name, module in net.named_modules():
        if name.endswith(layer):
            stem = f"{prefix}.{name.removeprefix('text_model.')}"
            found[f"{stem}.lora_A.weight"] = torch.randn(2, module.in_features)
            found[f"{stem}.lora_B.weight"] = torch.randn(module.out_features, 2)
    return found


def kohya(tensors: dict[str, torch.Tensor], *alphas: float) -> dict[str, torch.Tensor]:
    """Layers by kohya's names, with one alpha or these in turn."""
    found = {}
    for name, tensor in tensors.items():
        layer, half = name.removesuffix(".weight").rsplit(".", 1)
        flat = "lora_" + layer.replace("text_encoder.", "te.").replace(".", "_")
        found[f"{flat}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = tensor
        found[f"{flat}.alpha"] = torch.tensor(alphas[len(found) // 3 % len(alphas)] if alphas else 3.0)
    return found


def test_alphas_that_diffusers_would_not_give_each_layer_are_no_reference(tmp_path: Path) -> None:
    theirs = stable_diffusion_1()
    theirs.save_pretrained(tmp_path / "base")
    tensors = kohya(low_rank("text_encoder.text_model", theirs.text_encoder, TEXT_LAYERS), 1.0, 2.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    reason = why_not(open_checkpoint(tmp_path / "base", lora=[tmp_path / "lora.safetensors"]))
    assert reason is not None and "one alpha, and 'lora.safetensors' has several" in reason


@pytest.mark.parametrize("sampler", ["heun", "dpm++2m-karras", "euler-ancestral", "tcd"])
def test_another_sampler_than_the_checkpoints_agrees_at_every_call(
    sampler: str, tiny_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    stages = read(tiny_checkpoint, tiny_bundle, replace(REQUEST, sampler=sampler))
    calls = [name for name in stages if name.startswith("step ")]
    assert len(calls) == (5 if sampler == "heun" else 3)
    assert all(stage.agreement.reaches(READING_GATE_DB) for stage in stages.values()), stages


def test_what_diffusers_has_no_class_for_is_said(tiny_snapfusion_checkpoint: Checkpoint) -> None:
    reason = why_not(tiny_snapfusion_checkpoint)
    assert reason is not None and "which diffusers doesn't have" in reason
