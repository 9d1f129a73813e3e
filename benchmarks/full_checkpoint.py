"""Random checkpoints that diffusers can load too, made once and kept."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfmobile.nets.layout import (
    GLYPH_64_AUTOENCODER,
    GLYPH_64_TEXT_ENCODER,
    GLYPH_64_UNET,
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    Stage,
)
from sfmobile.testing import SHARD_BYTES, random_weight, write_synthetic_checkpoint

CACHE = Path(tempfile.gettempdir()) / "sfmobile-benchmarks"
TOKENIZER = Path(__file__).parents[1] / "models" / "glyph" / "tokenizer"


# The built-in model's layouts with what diffusers insists on: two ResNets in the middle, attention behind every ResNet
# on the way up, halves of one width.
SMALL_UNET = replace(GLYPH_64_UNET, mid=Stage(160, 2, 1), up=(Stage(160, 2, 2), Stage(96, 2, 2)))
SMALL_AUTOENCODER = replace(GLYPH_64_AUTOENCODER, encoder_channels=GLYPH_64_AUTOENCODER.decoder_channels)


def full_checkpoint(cache: Path = CACHE) -> Path:
    """Directory of one of full Stable Diffusion 1.5 size: fp16, norms' affine parameters random too; 2.1 GB of disk."""
    return _made_once(
        cache / "sd15",
        unet_layout=SD15_UNET,
        text_encoder_layout=SD15_TEXT_ENCODER,
        autoencoder_layout=SD15_AUTOENCODER,
    )


# Stable Diffusion XL base 1.0, its structural configs as published.
XL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
XL_AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
XL_TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "vocab_size": 49408,
}
XL_TEXT_2 = {
    **XL_TEXT,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
XL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": False,
}
XL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# The published autoencoder's residual stream is beyond float16 on the way up of its decoder. A random one's isn't:
# there, what ResNets add is made so much larger, which the norms behind take away again.
XL_LARGE = 2.0**15


def full_xl_checkpoint(cache: Path = CACHE) -> Path:
    """Directory of one of Stable Diffusion XL base's size, fp16, 7.2 GB of disk: names and shapes are those of
    diffusers' and transformers' own networks. Made with the memory of one shard."""
    return _made(cache / "sdxl", _write_xl)


def _write_xl(root: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def clip(kind: Any, config: dict[str, Any]) -> Any:
        return kind(CLIPTextConfig(**{key: value for key, value in config.items() if key != "model_type"}))

    with torch.device("meta"):
        parts = {
            "text_encoder": (clip(CLIPTextModel, XL_TEXT), XL_TEXT),
            "text_encoder_2": (clip(CLIPTextModelWithProjection, XL_TEXT_2), XL_TEXT_2),
            "unet": (UNet2DConditionModel.from_config(XL_UNET), XL_UNET),
            "vae": (AutoencoderKL.from_config(XL_AUTOENCODER), XL_AUTOENCODER),
        }
    for folder, (net, config) in parts.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "config.json").write_text(json.dumps(config, indent=2))
        shapes = {key: tuple(value.shape) for key, value in net.named_parameters()}
        _write_shards(root / folder, "model" if folder.startswith("text") else "diffusion_pytorch_model", shapes)
    for folder, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        shutil.copytree(TOKENIZER, root / folder)
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            path = root / folder / name
            held = json.loads(path.read_text()) if path.is_file() else {}
            path.write_text(json.dumps({**held, "pad_token": pad}, indent=2))
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(XL_SCHEDULER, indent=2))
    (root / "model_index.json").write_text(json.dumps(XL_INDEX, indent=2))


def _write_shards(folder: Path, stem: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random fp16 weights of these names in files of at most half a gigabyte, with an index."""
    import torch
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in names:
            large = re.match(r"decoder\.up_blocks\..*\.conv2\.", name) is not None
            weight = random_weight(f"{folder.name}.{name}", shapes[name], 0)
            tensors[name] = (weight * XL_LARGE if large else weight).to(torch.float16)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(2 * math.prod(shape) for shape in shapes.values())}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({**index, "weight_map": weight_map}, indent=2))


def small_checkpoint(cache: Path = CACHE) -> Path:
    """Directory of one of the built-in model's size."""
    return _made_once(
        cache / "small",
        unet_layout=SMALL_UNET,
        text_encoder_layout=GLYPH_64_TEXT_ENCODER,
        autoencoder_layout=SMALL_AUTOENCODER,
        latent_size=(8, 8),
    )


def _made_once(root: Path, **options: Any) -> Path:
    return _made(root, lambda partial: write_synthetic_checkpoint(partial, tokenizer_dir=TOKENIZER, **options))


def _made(root: Path, write: Callable[[Path], None]) -> Path:
    """The checkpoint at `root`, written beside it and renamed into place if it isn't there."""
    if not root.exists():
        print(f"Making a random checkpoint in {root}", file=sys.stderr)
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root.parent)) / root.name
        write(partial)
        partial.replace(root)
        partial.parent.rmdir()
    return root
