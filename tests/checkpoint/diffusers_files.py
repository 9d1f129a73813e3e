"""Checkpoints written by diffusers and transformers themselves, tiny and random."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.tiny import TOKENIZER_DIR


def stable_diffusion_1(seed: int = 0, *, heads: int = 2, width: int = 24, groups: int = 8) -> StableDiffusionPipeline:
    """SD-1.5's shape: projections as convolutions, one head count, noise prediction, PNDM's config file."""
    return _pipeline(
        seed,
        width,
        groups,
        unet={"attention_head_dim": heads},
        text={"hidden_act": "quick_gelu"},
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
    )


def stable_diffusion_2(
    seed: int = 0, *, heads: tuple[int, int] = (2, 4), width: int = 24, groups: int = 8
) -> StableDiffusionPipeline:
    """SD-2.1's shape: linear projections, a head count per level, exact GELU, v-prediction."""
    return _pipeline(
        seed,
        width,
        groups,
        unet={"attention_head_dim": list(heads), "use_linear_projection": True, "upcast_attention": True},
        text={"hidden_act": "gelu"},
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )


def _pipeline(seed: int, width: int, groups: int, unet: dict, text: dict, scheduler: object) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=width,
            norm_num_groups=groups,
            **unet,
        ),
        "vae": AutoencoderKL(
            block_out_channels=(16, 32) if groups <= 16 else (32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=groups,
            sample_size=16,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                hidden_size=width,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2 if width % 64 else width // 64,
                bos_token_id=49406,
                eos_token_id=49407,
                vocab_size=49408,
                **text,
            )
        ),
    }
    for part in parts.values():
        for name, weight in part.named_parameters():
            if weight.ndim == 1:
                # At 1 and 0 a norm's weights could be swapped or lost unseen.
                torch.nn.init.uniform_(weight, *((0.7, 1.3) if name.endswith("weight") else (-0.1, 0.1)))
    return StableDiffusionPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER_DIR),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
