from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.source import LoraChoice
from sfmobile.checkpoint.weights import PartName
from sfmobile.errors import ArtifactError, UsageError
from tests.checkpoint.diffusers_files import stable_diffusion_1
from tests.nets.oracles import agreement_db

Tensors = dict[str, torch.Tensor]
FUSED_DB = 90.0
UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "conv_shortcut")
TEXT_LAYERS = ("q_proj", "k_proj", "out_proj", "fc1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lora") / "base"
    stable_diffusion_1().save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def peft_tensors() -> Tensors:
    """Random LoRA tensors of rank 4 (convolutions too) by peft's names, `unet.` or `text_encoder.` before them."""
    pipeline = stable_diffusion_1()
    torch.manual_seed(1)
    tensors: Tensors = {}
    for prefix, net, layers in (
        ("unet", pipeline.unet, UNET_LAYERS),
        ("text_encoder", pipeline.text_encoder, TEXT_LAYERS),
    ):
        inject_adapter_in_model(
            LoraConfig(r=4, lora_alpha=4, target_modules=list(layers), init_lora_weights=False), net
        )
        for name, tensor in get_peft_model_state_dict(net).items():
            # transformers 5 names the encoder's modules without `text_model.`, files have it.
            stem = name if prefix == "unet" or name.startswith("text_model.") else f"text_model.{name}"
            tensors[f"{prefix}.{stem}"] = tensor.detach().clone().contiguous()
    return tensors


def alpha_of(layer: str) -> float:
    return 2.0 if "attn" in layer else 8.0


def layers_of(tensors: Tensors) -> list[str]:
    return sorted({name.split(".lora_")[0] for name in tensors})


def kohya(tensors: Tensors, alpha_of: Callable[[str], float] = alpha_of) -> Tensors:
    """`lora_unet_down_blocks_0_….lora_down.weight`, with alphas."""
    renamed: Tensors = {}
    for layer in layers_of(tensors):
        prefix, _, module = layer.partition(".")
        name = f"lora_{'te' if prefix == 'text_encoder' else prefix}_{module.replace('.', '_')}"
        renamed[f"{name}.lora_down.weight"] = tensors[f"{layer}.lora_A.weight"].half()
        renamed[f"{name}.lora_up.weight"] = tensors[f"{layer}.lora_B.weight"].half()
        renamed[f"{name}.alpha"] = torch.tensor(alpha_of(layer))
    return renamed


def old_diffusers(tensors: Tensors) -> Tensors:
    """Attention processors of 2023; they had no other layers."""
    renamed: Tensors = {}
    for layer in layers_of(tensors):
        matched = re.fullmatch(r"(unet\..*\.attn\d)\.(to_[qkv]|to_out)(\.0)?", layer)
        if matched:
            for old, new in (("down", "lora_A"), ("up", "lora_B")):
                renamed[f"{matched[1]}.processor.{matched[2]}_lora.{old}.weight"] = tensors[f"{layer}.{new}.weight"]
    return renamed


def same(tensors: Tensors) -> Tensors:
    return tensors


FORMS: dict[str, Callable[[Tensors], Tensors]] = {"peft": same, "kohya": kohya, "diffusers 2023": old_diffusers}


def fused(root: Path, files: list[tuple[Path, float]]) -> StableDiffusionPipeline:
    """diffusers' fusing for the UNet; for the text encoder the formula.

    With transformers 5.24 diffusers 0.42 doesn't give kohya's alphas of it as the file has them, where they differ from
    layer to layer; where they don't, its own fusing is the oracle below.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(root, safety_checker=None)
    names = [f"adapter_{index}" for index in range(len(files))]
    for name, (file, scale) in zip(names, files, strict=True):
        tensors, alphas, settings = pipeline.lora_state_dict(
            file.parent, weight_name=file.name, return_lora_metadata=True
        )
        unet = {key: tensor for key, tensor in tensors.items() if key.startswith("unet.")}
        pipeline.load_lora_into_unet(
            unet, alphas, pipeline.unet, adapter_name=name, _pipeline=pipeline, metadata=settings
        )
        fuse_text_encoder(pipeline.text_encoder, load_file(file), scale)
    pipeline.set_adapters(names, [scale for _, scale in files])
    pipeline.fuse_lora(["unet"], adapter_names=names)
    pipeline.unload_lora_weights()
    return pipeline


def fuse_text_encoder(net: torch.nn.Module, tensors: Tensors, scale: float) -> None:
    for name, module in net.named_modules():
        for layer in (f"lora_te_{name.replace('.', '_')}", f"lora_te_text_model_{name.replace('.', '_')}"):
            if f"{layer}.alpha" in tensors:
                down, up = (tensors[f"{layer}.lora_{half}.weight"].float() for half in ("down", "up"))
                factor = scale * float(tensors[f"{layer}.alpha"]) / len(down)
                module.weight.data += factor * (up @ down)
        for layer in (f"text_encoder.{name}", f"text_encoder.text_model.{name}"):
            if f"{layer}.lora_A.weight" in tensors:
                module.weight.data += scale * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]


def assert_weights_equal(checkpoint: Checkpoint, pipeline: Any) -> None:
    theirs = {"unet": pipeline.unet.state_dict(), "text_encoder": pipeline.text_encoder.state_dict()}
    part: PartName
    for part in ("unet", "text_encoder"):
        ours = checkpoint.state_dict(part)
        from sfmobile.checkpoint.weights import stored_names

        for key, weight in ours.items():
            name = next(name for name in stored_names(part, key) if name in theirs[part])
            assert agreement_db(theirs[part][name].reshape(weight.shape), weight.float()) >= FUSED_DB, key


@pytest.mark.parametrize("form", FORMS)
def test_merged_weights_equal_those_that_diffusers_fuses(
    form: str, base: Path, peft_tensors: Tensors, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(FORMS[form](peft_tensors), file)
    checkpoint = open_checkpoint(base, lora=[f"{file}:0.7"])
    assert_weights_equal(checkpoint, fused(base, [(file, 0.7)]))
    before = Checkpoint.open(base)
    assert checkpoint.sha256("unet") != before.sha256("unet")
    assert checkpoint.sha256("decoder") == before.sha256("decoder")
    assert (checkpoint.sha256("text_encoder") == before.sha256("text_encoder")) == (form == "diffusers 2023")


def kohya_as_published(tensors: Tensors) -> Tensors:
    """One alpha for all of the text encoder, which diffusers reads as the file has it."""
    return kohya(tensors, lambda layer: 3.0 if layer.startswith("text_encoder") else alpha_of(layer))


@pytest.mark.parametrize("form", [same, kohya_as_published])
def test_both_networks_equal_those_that_diffusers_fuses_in_one_call(
    form: Callable[[Tensors], Tensors], base: Path, peft_tensors: Tensors, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(form(peft_tensors), file)
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    pipeline.fuse_lora(adapter_names=["lora"])
    pipeline.unload_lora_weights()
    assert_weights_equal(open_checkpoint(base, lora=[f"{file}:0.7"]), pipeline)


def test_two_files_add_up_and_record_themselves(base: Path, peft_tensors: Tensors, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(kohya(peft_tensors), first)
    save_file({name: tensor * 0.5 for name, tensor in peft_tensors.items() if "attn2" in name}, second)
    checkpoint = open_checkpoint(base, lora=[first, LoraChoice(second, -0.5)])
    assert_weights_equal(checkpoint, fused(base, [(first, 1.0), (second, -0.5)]))
    assert [(record.path, record.scale) for record in checkpoint.laid.records] == [
        (str(first), 1.0),
        (str(second), -0.5),
    ]
    again = open_checkpoint(checkpoint.source)
    assert again.sha256("unet") == checkpoint.sha256("unet")


def test_alphas_that_diffusers_records_beside_the_tensors_count(
    base: Path, peft_tensors: Tensors, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    tensors = {name: tensor for name, tensor in peft_tensors.items() if name.startswith("unet.")}
    settings = {"unet.r": 4, "unet.lora_alpha": 12, "unet.alpha_pattern": {}, "unet.target_modules": list(UNET_LAYERS)}
    save_file(tensors, file, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    assert_weights_equal(open_checkpoint(base, lora=[file]), fused(base, [(file, 1.0)]))


def test_loha_is_merged_as_peft_merges_it(base: Path, tmp_path: Path) -> None:
    from peft import LoHaConfig

    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    torch.manual_seed(2)
    config = LoHaConfig(r=3, alpha=6, target_modules=["to_q", "conv1"], init_weights=False)
    net = inject_adapter_in_model(config, pipeline.unet)
    tensors, deltas = {}, {}
    for name, module in net.named_modules():
        if hasattr(module, "hada_w1_a") and "default" in module.hada_w1_a:
            flat = f"lora_unet_{name.replace('.', '_')}"
            for key in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"):
                tensors[f"{flat}.{key}"] = getattr(module, key)["default"].detach().clone().contiguous()
            tensors[f"{flat}.alpha"] = torch.tensor(6.0)
            deltas[f"{name}.weight"] = module.get_delta_weight("default").detach()
    file = tmp_path / "loha.safetensors"
    save_file(tensors, file)
    before, after = Checkpoint.open(base).state_dict("unet"), open_checkpoint(base, lora=[file]).state_dict("unet")
    assert len(deltas) > 4
    for key, delta in deltas.items():
        assert agreement_db(before[key].float() + delta.reshape(before[key].shape), after[key]) >= FUSED_DB


LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def pair(layer: str = LAYER, out: int = 32, rank: int = 4, inner: int = 32, **others: torch.Tensor) -> Tensors:
    halves = {f"{layer}.lora_down.weight": torch.ones(rank, inner), f"{layer}.lora_up.weight": torch.ones(out, rank)}
    return {**halves, **{f"{layer}.{key}": value for key, value in others.items()}}


def test_lycoris_decomposition_of_a_convolution_is_merged(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    down, mid, up = torch.randn(4, 32, 1, 1), torch.randn(4, 4, 3, 3), torch.randn(32, 4, 1, 1)
    names = {"lora_down": down, "lora_mid": mid, "lora_up": up}
    save_file({f"{CONV}.{name}.weight": tensor for name, tensor in names.items()}, tmp_path / "a.safetensors")
    key = "down_blocks.0.resnets.0.conv1.weight"
    after = open_checkpoint(base, lora=[tmp_path / "a.safetensors"]).state_dict("unet")[key]
    # As convolutions one after the other.
    picture = torch.randn(1, 32, 5, 5)
    steps = torch.nn.functional.conv2d(picture, down)
    steps = torch.nn.functional.conv2d(torch.nn.functional.conv2d(steps, mid, padding=1), up)
    change = after - Checkpoint.open(base).state_dict("unet")[key]
    assert agreement_db(steps, torch.nn.functional.conv2d(picture, change, padding=1)) >= 80


def test_plain_differences_are_added(base: Path, tmp_path: Path) -> None:
    tensors = {f"{CONV}.diff": torch.ones(32, 32, 3, 3), f"{CONV}.diff_b": torch.full((32,), 2.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    before = Checkpoint.open(base).state_dict("unet")
    after = open_checkpoint(base, lora=[f"{tmp_path / 'a.safetensors'}:0.5"]).state_dict("unet")
    for leaf, change in (("weight", 0.5), ("bias", 1.0)):
        key = f"down_blocks.0.resnets.0.conv1.{leaf}"
        torch.testing.assert_close(after[key], before[key].float() + change)


REFUSED: dict[str, tuple[Tensors, str]] = {
    "another width": (
        pair(out=64),
        "the change of '.*attn1_to_q' is of .*up 64x4, and the weight of the unet is 32x32x",
    ),
    "another rank in its halves": (
        {**pair(), f"{LAYER}.lora_up.weight": torch.ones(32, 3)},
        "for another architecture",
    ),
    "a layer that isn't there": (
        pair(LAYER.replace("blocks_0_att", "blocks_7_att")),
        "it changes '.*blocks_7_att.*', which the unet doesn't have; it is for another architecture",
    ),
    "one half": ({f"{LAYER}.lora_up.weight": torch.ones(32, 4)}, "only up is there"),
    "an alpha alone": ({f"{LAYER}.alpha": torch.tensor(1.0)}, "only alpha is there"),
    "an alpha of NaN": (pair(alpha=torch.tensor(math.nan)), "has alpha nan and rank 4; expected two finite numbers"),
    "an alpha of many": (pair(alpha=torch.ones(3)), "has alpha nan and rank 4"),
    "no rank": (pair(rank=0), "has alpha 0 and rank 0|for another architecture"),
    "a number for a matrix": ({**pair(), f"{LAYER}.lora_up.weight": torch.tensor(1.0)}, "for another architecture"),
    "a convolution on a linear layer": (
        {**pair(), f"{LAYER}.lora_down.weight": torch.ones(4, 32, 3, 3)},
        "for another architecture",
    ),
    "whole numbers": (
        {name: tensor.to(torch.int32) for name, tensor in pair().items()},
        "is stored as I32; expected a LoRA of floating-point tensors",
    ),
    "DoRA": (pair(dora_scale=torch.ones(32, 1)), "is of DoRA, which rescales whole rows, which sfmobile doesn't merge"),
    "LoKr": ({f"{LAYER}.lokr_w1": torch.ones(4, 4)}, "is of LoKr, which"),
    "Stable Diffusion XL": (pair("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "is a LoRA for Stable Diffusion XL"),
    "Flux": (pair("transformer.single_transformer_blocks.0.attn.to_q"), "is a LoRA for a transformer such as Flux"),
    "one layer under two names": (
        {**pair(), **pair(LAYER.replace("lora_unet_", "unet.").replace("down_blocks_0", "down_blocks_0"))},
        "both change down_blocks.0",
    ),
    "a checkpoint": ({"conv_in.weight": torch.ones(1)}, "'conv_in.weight' is no part of a LoRA"),
    "nothing": ({}, "holds no tensor; expected a LoRA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_lora_that_is_damaged_or_for_another_model_is_refused_in_one_sentence(
    case: str, tiny_sd: Path, tmp_path: Path
) -> None:
    tensors, sentence = REFUSED[case]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match=sentence) as refusal:
        open_checkpoint(tiny_sd, lora=[tmp_path / "a.safetensors"])
    assert "\n" not in str(refusal.value) and "a.safetensors" in str(refusal.value)


@pytest.fixture(scope="module")
def tiny_sd(base: Path) -> Path:
    return base


def test_values_that_are_not_finite_are_refused_when_they_are_merged(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(pair() | {f"{LAYER}.lora_up.weight": torch.full((32, 4), math.inf)}, file)
    with pytest.raises(ArtifactError, match=r"the change of '.*' holds infinite values or NaN"):
        open_checkpoint(base, lora=[file]).state_dict("unet")


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "x", ""])
def test_a_scale_that_is_no_number_is_refused(scale: str, base: Path) -> None:
    with pytest.raises(UsageError, match=r"--lora .*: (the scale is|'.*' is no scale)"):
        open_checkpoint(base, lora=[f"a.safetensors:{scale}"])


def test_a_pickled_lora_is_refused(base: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="is a pickle, which can run code when it is opened; expected a LoRA as"):
        open_checkpoint(base, lora=[tmp_path / "a.safetensors"])


def test_a_file_that_has_changed_since_is_refused(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(pair(), file)
    with pytest.raises(ArtifactError, match="is not the file that the bundle was exported with"):
        open_checkpoint(base, lora=[LoraChoice(file, 1.0, "0" * 64)])
