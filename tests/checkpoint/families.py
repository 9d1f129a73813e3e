"""One tiny checkpoint per family, written by diffusers and transformers: the real structure, narrow, random."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sfmobile.testing import write_byte_tokenizer

VOCABULARY = 514
WIDTHS = (16, 32, 32, 32)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = ("DDIMScheduler", {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1})


def _ddim(**changes: Any) -> tuple[str, dict[str, Any]]:
    return "DDIMScheduler", {**DDIM[1], **changes}


def blocks(kinds: str) -> dict[str, Any]:
    """Down and up blocks: "x" with attention, "." without, from the highest resolution to the lowest."""
    return {
        "down_block_types": tuple("CrossAttnDownBlock2D" if kind == "x" else "DownBlock2D" for kind in kinds),
        "up_block_types": tuple("CrossAttnUpBlock2D" if kind == "x" else "UpBlock2D" for kind in reversed(kinds)),
        "block_out_channels": WIDTHS[: len(kinds)],
    }


@dataclass(frozen=True)
class Family:
    """What makes a family: pipeline class, changes of the configs, and what is done to the files afterwards."""

    pipeline: str = "StableDiffusionPipeline"
    unet: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    text_class: type = CLIPTextModel
    scheduler: tuple[str, dict[str, Any]] = DDIM
    tokens: int = 77
    tiny_autoencoder: bool = False
    # Of a Stable Diffusion XL: changes of the second text encoder's config.
    second: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    then: Callable[[Path], None] | None = None


SD2 = {"attention_head_dim": (1, 2, 4, 4), "use_linear_projection": True}
SD2_TEXT = {"hidden_act": "gelu", "num_hidden_layers": 3}
V = {"prediction_type": "v_prediction"}


def _rewrite(file: str, **changes: Any) -> Callable[[Path], None]:
    def then(root: Path) -> None:
        content = json.loads((root / file).read_text())
        (root / file).write_text(json.dumps(content | changes))

    return then


# Stable Diffusion XL's kind: no attention at the highest of three resolutions, deeper transformers below, and 20
# channels of pooled text beside six sizes of 8 values.
XL_UNET = {
    **blocks(".xx"),
    "attention_head_dim": (2, 4, 4),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 3),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
    "cross_attention_dim": 24 + 32,
}
PRUNED = {**XL_UNET, "mid_block_type": "UNetMidBlock2D"}
EULER = ("EulerDiscreteScheduler", {**BETAS, "steps_offset": 1, "timestep_spacing": "leading"})


def _xl(unet: dict[str, Any] | None = None, **changes: Any) -> Family:
    values: dict[str, Any] = {
        "pipeline": "StableDiffusionXLPipeline",
        "unet": {**XL_UNET, **(unet or {})},
        "text": {"num_hidden_layers": 3},
        "second": {},
        "scheduler": EULER,
    }
    return Family(**(values | changes))


XL: dict[str, Family] = {
    "SDXL": _xl(),
    "SDXL-Turbo": _xl(scheduler=("EulerAncestralDiscreteScheduler", {**EULER[1], "timestep_spacing": "trailing"})),
    "SDXL-Lightning": _xl(scheduler=("EulerDiscreteScheduler", {**EULER[1], "timestep_spacing": "trailing"})),
    "SSD-1B": _xl(
        PRUNED
        | {
            "transformer_layers_per_block": (1, (2, 2), (4, 4)),
            "reverse_transformer_layers_per_block": ((4, 4, 5), (2, 1, 1), 1),
        }
    ),
    "Segmind-Vega": _xl(
        PRUNED
        | {
            "transformer_layers_per_block": (1, (1, 1), (2, 2)),
            "reverse_transformer_layers_per_block": ((2, 2, 2), (1, 1, 1), 1),
        }
    ),
    "LCM-SDXL": _xl({"time_cond_proj_dim": 16}, scheduler=("LCMScheduler", BETAS)),
    "SDXL, image-to-image class": _xl(pipeline="StableDiffusionXLImg2ImgPipeline"),
    "SDXL, inpainting class, plain UNet": _xl(pipeline="StableDiffusionXLInpaintPipeline"),
    "SDXL, older end token": _xl(second={"eos_token_id": 2}),
    "SDXL, no zeros": _xl(options={"force_zeros_for_empty_prompt": False}),
}
TEXT_TO_IMAGE: dict[str, Family] = {
    "SD 1.x": Family(),
    "SD 2.x": Family(unet=SD2, text=SD2_TEXT),
    "SD 2.x 768-v": Family(unet={**SD2, "upcast_attention": True}, text=SD2_TEXT, scheduler=_ddim(**V)),
    "zero-SNR": Family(
        unet=SD2, text=SD2_TEXT, scheduler=_ddim(**V, timestep_spacing="trailing", rescale_betas_zero_snr=True)
    ),
    "SD-Turbo": Family(
        unet=SD2,
        text=SD2_TEXT,
        scheduler=("EulerDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing", "steps_offset": 1}),
    ),
    "BK-SDM base": Family(unet={"layers_per_block": 1}),
    "BK-SDM small, small-sd": Family(unet={"layers_per_block": 1, "mid_block_type": None}),
    "BK-SDM tiny, tiny-sd": Family(unet={"layers_per_block": 1, "mid_block_type": None, **blocks("xxx")}),
    "LCM": Family("LatentConsistencyModelPipeline", unet={"time_cond_proj_dim": 24}),
    "image-to-image class": Family("StableDiffusionImg2ImgPipeline"),
    "inpainting class, plain UNet": Family("StableDiffusionInpaintPipeline"),
    "LongCLIP": Family(text={"max_position_embeddings": 120}, tokens=120),
    "LongCLIP, short tokenizer": Family(text={"max_position_embeddings": 120}),
    "fewer layers than stored": Family(
        text={"num_hidden_layers": 3}, then=_rewrite("text_encoder/config.json", num_hidden_layers=2)
    ),
    "CLIPTextModelWithProjection": Family(
        text={"projection_dim": 20},
        text_class=CLIPTextModelWithProjection,
        then=_rewrite("model_index.json", text_encoder=["transformers", "CLIPTextModel"]),
    ),
    "TAESD": Family(tiny_autoencoder=True),
}
NETWORKS_ONLY: dict[str, Family] = {
    "inpainting": Family("StableDiffusionInpaintPipeline", unet={"in_channels": 9}),
    "InstructPix2Pix": Family("StableDiffusionInstructPix2PixPipeline", unet={"in_channels": 8}),
    "depth": Family(
        unet={**SD2, "in_channels": 5},
        text=SD2_TEXT,
        # diffusers' own pipeline would want a depth estimator beside it.
        then=_rewrite("model_index.json", _class_name="StableDiffusionDepth2ImgPipeline"),
    ),
}


def write_family(family: Family, root: Path, seed: int = 0) -> Path:
    """Write a random checkpoint of `family` at `root`; latents are 8x8, pictures 64x64."""
    torch.manual_seed(seed)
    kind, constants = family.scheduler
    unet: dict[str, Any] = {
        **blocks("xxx."),
        "sample_size": 8,
        "layers_per_block": 2,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        **family.unet,
    }
    text: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
        "vocab_size": VOCABULARY,
        **family.text,
    }
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(**unet),
        "text_encoder": family.text_class(CLIPTextConfig(**text)),
        "vae": _tiny_autoencoder() if family.tiny_autoencoder else _autoencoder(),
    }
    if family.second is not None:
        second = {**text, "hidden_size": 32, "num_attention_heads": 4, "projection_dim": 20, "hidden_act": "gelu"}
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**second | family.second))
    for part in parts.values():
        for name, weight in part.named_parameters():
            if weight.ndim == 1:
                # At 1 and 0 a norm's weights could be swapped or lost unseen.
                torch.nn.init.uniform_(weight, *((0.7, 1.3) if name.endswith("weight") else (-0.1, 0.1)))
    with tempfile.TemporaryDirectory() as folder:
        # CLIP's own 49,408 tokens take longer to read than all networks take to run.
        write_byte_tokenizer(Path(folder), VOCABULARY, family.tokens)
        parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder)
        if family.second is not None:
            parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(folder, pad_token="!")
    options: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if family.second is not None:
        options = {"add_watermarker": False, **family.options}
    pipeline = getattr(diffusers, family.pipeline)(**parts, scheduler=getattr(diffusers, kind)(**constants), **options)
    pipeline.save_pretrained(root)
    if family.then is not None:
        family.then(root)
    return root


def _autoencoder() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=64,
    )


def _tiny_autoencoder() -> diffusers.AutoencoderTiny:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(3, 3, 3, 1),
    )
