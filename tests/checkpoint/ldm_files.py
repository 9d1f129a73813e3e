"""Single files as the original training code names them, made of tiny diffusers pipelines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.checkpoint.diffusers_files import stable_diffusion_1, stable_diffusion_2

Tensors = dict[str, torch.Tensor]
# 32 groups, and text encoders' heads of 64 channels, as all of these files have.
WIDTH, GROUPS = 64, 32


def pipeline_1() -> Any:
    return stable_diffusion_1(heads=8, width=WIDTH, groups=GROUPS)


def pipeline_2() -> Any:
    return stable_diffusion_2(heads=(1, 1), width=WIDTH, groups=GROUPS)


def ldm_unet(weights: Tensors, layers: int = 1) -> Tensors:
    """One level after the other; an upsampler is the third module behind an attention, the second without one."""
    step = layers + 1

    def upsampler(level: str) -> str:
        place = 2 if f"up_blocks.{level}.attentions.{layers}.norm.weight" in weights else 1
        return f"output_blocks.{int(level) * step + layers}.{place}"

    resnet = (
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    )
    rules = [
        (r"^time_embedding\.linear_1", lambda m: "time_embed.0"),
        (r"^time_embedding\.linear_2", lambda m: "time_embed.2"),
        (r"^conv_in\.", lambda m: "input_blocks.0.0."),
        (r"^conv_norm_out", lambda m: "out.0"),
        (r"^conv_out", lambda m: "out.2"),
        (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * step + int(m[2])}.0"),
        (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * step + int(m[2])}.1"),
        (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{(1 + int(m[1])) * step}.0.op"),
        (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{int(m[1]) * step + int(m[2])}.0"),
        (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{int(m[1]) * step + int(m[2])}.1"),
        (r"^up_blocks\.(\d)\.upsamplers\.0", lambda m: upsampler(m[1])),
        (r"^add_embedding\.linear_1", lambda m: "label_emb.0.0"),
        (r"^add_embedding\.linear_2", lambda m: "label_emb.0.2"),
        (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
        (r"^mid_block\.attentions\.0", lambda m: "middle_block.1"),
    ]
    found: Tensors = {}
    for name, tensor in weights.items():
        new = name
        for pattern, place in rules:
            new = re.sub(pattern, place, new)
        if ".resnets." in name:
            for ours, theirs in resnet:
                new = new.replace(f".{ours}.", f".{theirs}.")
        found[f"model.diffusion_model.{new}"] = tensor
    return found


def ldm_vae(weights: Tensors, levels: int = 2, prefix: str = "first_stage_model.") -> Tensors:
    found: Tensors = {}
    for name, tensor in weights.items():
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                new = new.replace(f".{ours}.", f".{theirs}.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        found[f"{prefix}{new}"] = tensor
    return found


def ldm_clip(weights: Tensors) -> Tensors:
    return {f"cond_stage_model.transformer.text_model.{_bare(name)}": tensor for name, tensor in weights.items()}


def ldm_open_clip(weights: Tensors, layers: int = 2) -> Tensors:
    """With a last layer more, which Stable Diffusion 2 doesn't read, and what isn't the text encoder's."""
    state = {_bare(name): tensor for name, tensor in weights.items()}
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "logit_scale": torch.tensor(1.0),
        "text_projection": torch.ones(WIDTH, WIDTH),
    }
    for leaf in ("weight", "bias"):
        found[f"ln_final.{leaf}"] = state[f"final_layer_norm.{leaf}"]
        for layer in range(layers + 1):
            ours, theirs = f"encoder.layers.{min(layer, layers - 1)}", f"transformer.resblocks.{layer}"
            found[f"{theirs}.attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{ours}.self_attn.{letter}_proj.{leaf}"] for letter in "qkv"]
            )
            found[f"{theirs}.attn.out_proj.{leaf}"] = state[f"{ours}.self_attn.out_proj.{leaf}"]
            for old, new in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")):
                found[f"{theirs}.{new}.{leaf}"] = state[f"{ours}.{old}.{leaf}"]
            for old, new in (("fc1", "c_fc"), ("fc2", "c_proj")):
                found[f"{theirs}.mlp.{new}.{leaf}"] = state[f"{ours}.mlp.{old}.{leaf}"]
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in found.items()}


def single_file_xl(pipeline: Any) -> Tensors:
    """Of a Stable Diffusion XL: both encoders behind other prefixes, and the second's projection by rows."""
    second = pipeline.text_encoder_2.state_dict()
    state = {name: tensor for name, tensor in second.items() if name != "text_projection.weight"}
    layers = pipeline.text_encoder_2.config.num_hidden_layers
    open_clip = {
        name.replace("cond_stage_model.", "conditioner.embedders.1."): tensor
        # The layer more is Stable Diffusion 2's.
        for name, tensor in ldm_open_clip(state, layers).items()
        if f".resblocks.{layers}." not in name
    }
    open_clip["conditioner.embedders.1.model.text_projection"] = second["text_projection.weight"].T
    clip = ldm_clip(pipeline.text_encoder.state_dict())
    tensors = {
        **ldm_unet(pipeline.unet.state_dict()),
        **ldm_vae(pipeline.vae.state_dict()),
        **{name.replace("cond_stage_model.", "conditioner.embedders.0."): tensor for name, tensor in clip.items()},
        **open_clip,
    }
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _bare(name: str) -> str:
    return name.removeprefix("text_model.")


def single_file(pipeline: Any, second: bool) -> Tensors:
    text = ldm_open_clip if second else ldm_clip
    tensors = {
        **ldm_unet(pipeline.unet.state_dict()),
        **ldm_vae(pipeline.vae.state_dict()),
        **text(pipeline.text_encoder.state_dict()),
        "alphas_cumprod": torch.ones(1000),
        "betas": torch.ones(1000),
    }
    if not second:
        tensors["model_ema.diffusion_modelconv_inweight"] = torch.ones(1)
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def write(tensors: Tensors, path: Path) -> Path:
    save_file(tensors, path)
    return path
