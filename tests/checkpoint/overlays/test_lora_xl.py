"""LoRAs of Stable Diffusion XL: three networks, by diffusers' names, kohya's, and kohya's of LDM's blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.weights import stored_names
from sfmobile.errors import ArtifactError
from tests.checkpoint.families import XL, write_family
from tests.nets.oracles import agreement_db

Tensors = dict[str, torch.Tensor]
FUSED_DB = 90.0
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
LAYERS = {"unet": ["to_q", "to_v", "to_out.0", "proj_in", "ff.net.0.proj"]}
TEXT_LAYERS = ["q_proj", "fc1"]
# Two ResNets a level, as the family has.
STEP = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(XL["SDXL"], tmp_path_factory.mktemp("xl") / "base")


def opened(root: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(root, add_watermarker=False)


@pytest.fixture(scope="module")
def tensors(base: Path) -> Tensors:
    """Random LoRA tensors of rank 4 by diffusers' names."""
    pipeline = opened(base)
    torch.manual_seed(1)
    found: Tensors = {}
    for network in NETWORKS:
        net = getattr(pipeline, network)
        config = LoraConfig(r=4, lora_alpha=4, target_modules=LAYERS.get(network, TEXT_LAYERS), init_lora_weights=False)
        inject_adapter_in_model(config, net)
        for name, tensor in get_peft_model_state_dict(net).items():
            stem = name if network == "unet" or name.startswith("text_model.") else f"text_model.{name}"
            found[f"{network}.{stem}"] = tensor.detach().clone().contiguous()
    return found


def kohya(tensors: Tensors, ldm: bool) -> Tensors:
    """kohya's names, with the alphas of the rank."""
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, half = name.partition(".lora_")
        network, _, module = layer.partition(".")
        if ldm and network == "unet":
            module = re.sub(
                r"^down_blocks\.(\d)\.attentions\.(\d)",
                lambda m: f"input_blocks.{1 + int(m[1]) * STEP + int(m[2])}.1",
                module,
            )
            module = re.sub(
                r"^up_blocks\.(\d)\.attentions\.(\d)",
                lambda m: f"output_blocks.{int(m[1]) * STEP + int(m[2])}.1",
                module,
            )
            module = module.replace("mid_block.attentions.0", "middle_block.1")
        stem = f"{prefixes[network]}_{module.replace('.', '_')}"
        renamed[f"{stem}.lora_{'down' if half.startswith('A') else 'up'}.weight"] = tensor
        renamed[f"{stem}.alpha"] = torch.tensor(4.0)
    return renamed


def peft_name(name: str) -> str:
    """Of what diffusers makes of kohya's names: its own of 2023."""
    name = re.sub(r"\.processor\.(to_\w+?)_lora\.", r".\1.lora.", name).replace(".to_out.lora.", ".to_out.0.lora.")
    return name.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")


@pytest.mark.parametrize("form", ["diffusers", "kohya", "kohya, LDM's blocks"])
def test_all_three_networks_equal_those_that_diffusers_fuses(
    form: str, base: Path, tensors: Tensors, tmp_path: Path
) -> None:
    plain, file = tmp_path / "plain.safetensors", tmp_path / "lora.safetensors"
    save_file(tensors, plain)
    save_file(tensors if form == "diffusers" else kohya(tensors, "LDM" in form), file)
    pipeline = opened(base)
    if "LDM" in form:
        # That the test names the blocks as the file's own program does: diffusers reads them back.
        read, _ = pipeline.lora_state_dict(file.parent, weight_name=file.name, unet_config=pipeline.unet.config)
        found = {peft_name(name): tensor for name, tensor in read.items() if name.startswith("unet.")}
        assert found.keys() == {name for name in tensors if name.startswith("unet.")}
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.items())
    pipeline.load_lora_weights(plain.parent, weight_name=plain.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [0.7])
    pipeline.fuse_lora(["unet", "text_encoder", "text_encoder_2"], adapter_names=["lora"])
    pipeline.unload_lora_weights()
    checkpoint, bare = open_checkpoint(base, lora=[f"{file}:0.7"]), open_checkpoint(base)
    for network in NETWORKS:
        theirs = getattr(pipeline, network).state_dict()
        for key, weight in checkpoint.state_dict(network).items():
            name = next(name for name in stored_names(network, key) if name in theirs)
            assert agreement_db(theirs[name].reshape(weight.shape), weight.float()) >= FUSED_DB, key
        assert checkpoint.sha256(network) != bare.sha256(network)


REFUSED = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": "changes 'lora_unet_down_blocks_0_attentions_0_proj_in', which the "
    "unet doesn't have",
    "lora_te_text_model_encoder_layers_0_mlp_fc1": "a LoRA for Stable Diffusion 1 or 2",
    "lora_unet_input_blocks_1_1_proj_in": "changes 'lora_unet_input_blocks_1_1_proj_in', which the unet doesn't have",
}


@pytest.mark.parametrize("layer", REFUSED)
def test_a_lora_of_another_model_is_refused_by_its_first_layer_that_does_not_fit(
    layer: str, base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({f"{layer}.lora_down.weight": torch.ones(2, 24), f"{layer}.lora_up.weight": torch.ones(48, 2)}, file)
    with pytest.raises(ArtifactError, match=REFUSED[layer]):
        open_checkpoint(base, lora=[file])
