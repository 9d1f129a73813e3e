"""The `config.json` of each component: diffusers' and transformers' configs to layouts and back.

A layout that diffusers can express is written as the config of its own class, so that diffusers loads the checkpoint.
The others (SnapFusion's block counts, an autoencoder with halves of different widths) carry one of the class names
below and the layout itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from sfmobile.bundle.bounds import out_of_bounds
from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import read_model, validated
from sfmobile.nets.layout import (
    AUTOENCODER_LAYOUTS,
    UNET_LAYOUTS,
    AutoencoderLayout,
    ControlNetLayout,
    Stage,
    TextEncoderLayout,
    TinyAutoencoderLayout,
    UNetLayout,
)

Json = dict[str, Any]
Layout = TypeVar("Layout", UNetLayout, AutoencoderLayout)
Config = TypeVar("Config", bound=BaseModel)

UNET_CLASS = "SfmobileUNet"
AUTOENCODER_CLASS = "SfmobileAutoencoder"
TINY_AUTOENCODER_CLASS = "AutoencoderTiny"
# diffusers skips keys with an underscore in front.
NAME_KEY = "_layout_name"
# An autoencoder's key that says whether it overflows float16, as SDXL's does, and the scale of one that does: room up
# to 2 million instead of 65,504, and what is around 1 stays far from float16's smallest. stable-diffusion.cpp takes the
# same for SDXL's convolutions.
FORCE_UPCAST = "force_upcast"
UPCAST_SCALE = 2.0**-5

# What our networks have built in: a config that asks for anything else describes another network. Values are the
# defaults of diffusers and transformers, which a config may leave out.
UNET_CONSTANTS: Json = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    # diffusers raises for it too: what it calls heads is `attention_head_dim`.
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
# What is added to the time embedding of Stable Diffusion XL, beside the pooled text: the original picture's height and
# width, the place of its crop, and the target's height and width.
SIZES = 6
AUTOENCODER_CONSTANTS: Json = {
    "act_fn": "silu",
    "in_channels": 3,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "out_channels": 3,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


TINY_AUTOENCODER_CONSTANTS: Json = {
    "act_fn": "relu",
    "in_channels": 3,
    "out_channels": 3,
    "shift_factor": 0.0,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}


class ForeignConfig(BaseModel):
    """The keys that vary; the rest is compared with the constants above or doesn't change the result."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _UNetConfig(ForeignConfig):
    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[Literal["CrossAttnDownBlock2D", "DownBlock2D"], ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[Literal["CrossAttnUpBlock2D", "UpBlock2D"], ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    norm_num_groups: int = 32
    cross_attention_dim: int = 1280
    # diffusers' name for the number of heads (huggingface/diffusers issue 2011).
    attention_head_dim: int | tuple[int, ...] = 8
    time_cond_proj_dim: int | None = None
    # Of each level, or of each attention block of it.
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None


class _AutoencoderConfig(ForeignConfig):
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    # diffusers' default is True, which files that say nothing, Stable Diffusion 1's, have no need of.
    force_upcast: bool = False


class _TinyAutoencoderConfig(ForeignConfig):
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_channels: int = 4
    scaling_factor: float = 1.0


class _StoredUNet(ForeignConfig):
    layout: UNetLayout


class _StoredAutoencoder(ForeignConfig):
    layout: AutoencoderLayout
    parts: tuple[str, ...] = ()


class _TextEncoderConfig(ForeignConfig):
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    projection_dim: int | None = 512
    eos_token_id: int | None = 49407


def read_config(path: Path) -> Json:
    """The JSON object in `path`; raises `ArtifactError` if it is missing, cut or not an object."""
    return read_model(path, dict[str, Any], "a JSON file of a diffusers-format checkpoint", "copy the checkpoint again")


def unet_layout(config: Json, file: Path) -> UNetLayout:
    """Layout of a UNet config, diffusers' or our own; raises `ArtifactError` for a network we don't have."""
    if config.get("_class_name") == UNET_CLASS:
        return parse(_StoredUNet, config, file).layout
    _check_class(config, "UNet2DConditionModel", file)
    check_constants(config, UNET_CONSTANTS, file)
    values = parse(_UNetConfig, config, file)
    channels = values.block_out_channels
    layers = values.layers_per_block
    if isinstance(layers, int):
        layers = (layers,) * len(channels)
    for key, found in (
        ("down_block_types", len(values.down_block_types)),
        ("up_block_types", len(values.up_block_types)),
        ("layers_per_block", len(layers)),
    ):
        if found != len(channels):
            raise ArtifactError(
                f"{file}: '{key}' has {found} entries and 'block_out_channels' {len(channels)}; they must be as many."
            )
    depths, rising = _depths(values, file)
    down = tuple(
        _stage(width, count, count if kind.startswith("CrossAttn") else 0, depth, file)
        for width, count, kind, depth in zip(channels, layers, values.down_block_types, depths, strict=True)
    )
    up = tuple(
        _stage(width, count + 1, count + 1 if kind.startswith("CrossAttn") else 0, depth, file)
        for width, count, kind, depth in zip(
            reversed(channels), reversed(layers), values.up_block_types, rising, strict=True
        )
    )
    heads = values.attention_head_dim
    if isinstance(heads, tuple) and len(set(heads)) == 1:
        heads = heads[0]
    layout = _checked(
        UNetLayout,
        file,
        name=config.get(NAME_KEY, "unet"),
        down=down,
        mid=_stage(channels[-1], *_MID_BLOCKS[values.mid_block_type], depths[-1], file),
        up=up,
        cross_attention_dim=values.cross_attention_dim,
        heads=heads,
        in_channels=values.in_channels,
        out_channels=values.out_channels,
        norm_groups=values.norm_num_groups,
        guidance_embedding_dim=values.time_cond_proj_dim,
        added_embedding_dim=_added_dim(values, file),
    )
    return _with_known_name(layout, UNET_LAYOUTS)


_Depths = tuple[int | tuple[int, ...], ...]


def _depths(values: _UNetConfig, file: Path) -> tuple[_Depths, _Depths]:
    """Transformer layers of each level on the way down and on the way up."""
    given, levels = values.transformer_layers_per_block, len(values.block_out_channels)
    down: _Depths = (given,) * levels if isinstance(given, int) else given
    up = values.reverse_transformer_layers_per_block
    if up is None and any(isinstance(depth, tuple) for depth in down):
        raise ArtifactError(
            f"{file}: 'transformer_layers_per_block' is {list(down)}, uneven, and says nothing of the way up; expected "
            "'reverse_transformer_layers_per_block' beside it, as diffusers does: copy the checkpoint again."
        )
    rising = down[::-1] if up is None else up
    for key, found in (("transformer_layers_per_block", down), ("reverse_transformer_layers_per_block", rising)):
        if len(found) != levels:
            raise ArtifactError(
                f"{file}: '{key}' has {len(found)} entries and 'block_out_channels' {levels}; they must be as many."
            )
    return down, rising


def _stage(channels: int, resnets: int, attentions: int, depth: int | tuple[int, ...], file: Path) -> Stage:
    depths = (depth,) * attentions if isinstance(depth, int) else depth[:attentions]
    if len(depths) < attentions or min(depths, default=1) < 0:
        raise ArtifactError(
            f"{file}: {attentions} attention blocks have the transformer layers {list(depths)}; expected a number of 0 "
            "or more for each block."
        )
    return Stage(channels, resnets, attentions, depths if set(depths) - {1} else ())


def _added_dim(values: _UNetConfig, file: Path) -> int | None:
    """Values of the embedding that is added to the time's, None where there is none."""
    if values.addition_embed_type is None:
        return None
    total, each = values.projection_class_embeddings_input_dim, values.addition_time_embed_dim
    if total is None or each is None or total <= SIZES * each or each % 2:
        raise ArtifactError(
            f"{file}: 'projection_class_embeddings_input_dim' is {total} and 'addition_time_embed_dim' {each}; "
            f"expected the pooled text beside {SIZES} times the second, which is even: copy the checkpoint again."
        )
    return total


def added_embedding(config: Json, layout: UNetLayout, file: Path) -> tuple[int, int] | None:
    """Channels of the pooled text, and values of each size's sinusoid, that a UNet is given; None where it has none."""
    if layout.added_embedding_dim is None:
        return None
    each = parse(_UNetConfig, {"addition_time_embed_dim": config.get("addition_time_embed_dim")}, file)
    assert each.addition_time_embed_dim is not None  # `_added_dim` has refused it
    return layout.added_embedding_dim - SIZES * each.addition_time_embed_dim, each.addition_time_embed_dim


CONTROLNET_CONSTANTS: Json = {
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}


class _ControlNetConfig(ForeignConfig):
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)


def parse_controlnet(config: Json, file: Path) -> ControlNetLayout:
    """Layout of diffusers' `ControlNetModel`; raises `ArtifactError` for another network, or one we don't have."""
    found = config.get("_class_name")
    if found != "ControlNetModel":
        raise ArtifactError(f"{file}: expected a ControlNet of class ControlNetModel, found {found}.")
    check_constants(config, CONTROLNET_CONSTANTS, file)
    values = parse(_ControlNetConfig, config, file)
    # Of a UNet it is the way down; the way up that mirrors it makes a whole one to read it as.
    up = ["CrossAttnUpBlock2D" if kind == "CrossAttnDownBlock2D" else "UpBlock2D" for kind in values.down_block_types]
    unet = unet_layout(
        {
            **config,
            "_class_name": "UNet2DConditionModel",
            "up_block_types": up[::-1],
            "out_channels": values.in_channels,
            "block_out_channels": list(values.block_out_channels),
            "down_block_types": list(values.down_block_types),
        },
        file,
    )
    return ControlNetLayout(config.get(NAME_KEY, "controlnet"), unet, values.conditioning_embedding_out_channels)


# ResNets and attentions of diffusers' mid blocks.
_MID_BLOCKS: dict[str | None, tuple[int, int]] = {
    "UNetMidBlock2DCrossAttn": (2, 1),
    "UNetMidBlock2D": (1, 0),
    None: (0, 0),
}


def unet_config(layout: UNetLayout, latent_size: tuple[int, int], size_dimension: int = 256) -> Json:
    """`unet/config.json` of a layout; diffusers' class if it can express the layout, ours otherwise.

    size_dimension: values of each size's sinusoid in the added embedding, where the layout has one.
    """
    height, width = latent_size
    sample_size: int | list[int] = height if height == width else [height, width]
    mid = {blocks: kind for kind, blocks in _MID_BLOCKS.items()}
    expressible = (layout.mid.resnets, layout.mid.attentions) in mid and all(
        stage.resnets > 0 and stage.attentions in (0, stage.resnets) for stage in (*layout.down, *layout.up)
    )
    down, rising = _depth_lists(layout)
    # diffusers gives the middle the lowest level's, a number or the first of a list.
    lowest = down[-1] if isinstance(down[-1], int) else down[-1][0]
    if not expressible or (layout.mid.attentions and layout.mid.depth(0) != lowest):
        return {"_class_name": UNET_CLASS, "sample_size": sample_size, "layout": asdict(layout)}
    added: Json = {}
    if layout.added_embedding_dim is not None:
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": size_dimension,
            "projection_class_embeddings_input_dim": layout.added_embedding_dim,
        }
    layers = [stage.resnets for stage in layout.down]
    return {
        "_class_name": "UNet2DConditionModel",
        NAME_KEY: layout.name,
        **UNET_CONSTANTS,
        "sample_size": sample_size,
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ["CrossAttnDownBlock2D" if s.attentions else "DownBlock2D" for s in layout.down],
        "mid_block_type": mid[layout.mid.resnets, layout.mid.attentions],
        "up_block_types": ["CrossAttnUpBlock2D" if s.attentions else "UpBlock2D" for s in layout.up],
        "block_out_channels": [stage.channels for stage in layout.down],
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "norm_num_groups": layout.norm_groups,
        "cross_attention_dim": layout.cross_attention_dim,
        "attention_head_dim": list(layout.heads) if isinstance(layout.heads, tuple) else layout.heads,
        "time_cond_proj_dim": layout.guidance_embedding_dim,
        "use_linear_projection": False,
        "transformer_layers_per_block": down[0] if len(set(down)) == 1 and isinstance(down[0], int) else list(down),
        "reverse_transformer_layers_per_block": None if rising == down[::-1] and _is_even(down) else list(rising),
        "addition_embed_type": None,
        **added,
    }


def _depth_lists(layout: UNetLayout) -> tuple[_Depths, _Depths]:
    """Transformer layers of each level on the way down and up, a number where all blocks of a level have as many."""

    def of(stage: Stage, without: int = 1) -> int | tuple[int, ...]:
        depths = tuple(stage.depth(index) for index in range(stage.attentions)) or (without,)
        return depths[0] if len(set(depths)) == 1 else depths

    middle = layout.mid.depth(0) if layout.mid.attentions else 1
    return (*map(of, layout.down[:-1]), of(layout.down[-1], middle)), tuple(map(of, layout.up))


def _is_even(depths: _Depths) -> bool:
    return all(isinstance(depth, int) for depth in depths)


def latent_size(config: Json, file: Path) -> tuple[int, int]:
    """Height and width of the latents the UNet was trained on (`sample_size`; 64x64 where it isn't said).

    Files of diffusers before 0.9 say 32 and mean 64; diffusers reads every smaller number of theirs so.
    """
    size = parse(_UNetConfig, {"sample_size": config.get("sample_size")}, file).sample_size
    if size is None or (isinstance(size, int) and size < 64 and _is_before_0_9(config.get("_diffusers_version"))):
        return (64, 64)
    return (size, size) if isinstance(size, int) else size


def _is_before_0_9(version: Any) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    return found is not None and (int(found[1]), int(found[2])) < (0, 9)


def time_embedding(config: Json, layout: UNetLayout, file: Path) -> TimeEmbeddingRecord:
    """The sinusoid the host feeds to this UNet."""
    keys: Json = {key: config[key] for key in ("flip_sin_to_cos", "freq_shift") if key in config}
    values = parse(_UNetConfig, keys, file)
    return TimeEmbeddingRecord(
        dimension=layout.down[0].channels,
        flip_sin_to_cos=values.flip_sin_to_cos,
        frequency_shift=values.freq_shift,
    )


def autoencoder_layout(config: Json, file: Path) -> AutoencoderLayout | TinyAutoencoderLayout:
    """Layout of an autoencoder config, diffusers' or our own; raises `ArtifactError` for a network we don't have."""
    if config.get("_class_name") == TINY_AUTOENCODER_CLASS:
        return _tiny_autoencoder_layout(config, file)
    if config.get("_class_name") == AUTOENCODER_CLASS:
        return parse(_StoredAutoencoder, config, file).layout
    _check_class(config, "AutoencoderKL", file)
    check_constants(config, AUTOENCODER_CONSTANTS, file)
    values = parse(_AutoencoderConfig, config, file)
    layout = AutoencoderLayout(
        name=config.get(NAME_KEY, "vae"),
        decoder_channels=values.block_out_channels,
        encoder_channels=values.block_out_channels,
        latent_channels=values.latent_channels,
        layers_per_block=values.layers_per_block,
        norm_groups=values.norm_num_groups,
        scaling_factor=values.scaling_factor,
    )
    return replace(
        _with_known_name(layout, AUTOENCODER_LAYOUTS), activation_scale=UPCAST_SCALE if values.force_upcast else 1.0
    )


def _tiny_autoencoder_layout(config: Json, file: Path) -> TinyAutoencoderLayout:
    check_constants(config, TINY_AUTOENCODER_CONSTANTS, file)
    values = parse(_TinyAutoencoderConfig, config, file)
    widths = values.decoder_block_out_channels
    if len(set(widths)) != 1 or len(widths) != len(values.num_decoder_blocks):
        raise ArtifactError(
            f"{file}: 'decoder_block_out_channels' is {list(widths)} for {len(values.num_decoder_blocks)} levels; "
            "expected one width for each, and all the same."
        )
    return TinyAutoencoderLayout(
        name="tiny",
        decoder_blocks=values.num_decoder_blocks,
        decoder_width=widths[0],
        latent_channels=values.latent_channels,
        scaling_factor=values.scaling_factor,
    )


def autoencoder_config(layout: AutoencoderLayout, parts: tuple[str, ...], image_size: int) -> Json:
    """`vae/config.json`. `parts` names the halves that are stored ("encoder", "decoder")."""
    channels = list(layout.decoder_channels)
    if layout.encoder_channels != layout.decoder_channels or set(parts) != {"encoder", "decoder"}:
        return {"_class_name": AUTOENCODER_CLASS, "parts": sorted(parts), "layout": asdict(layout)}
    return {
        "_class_name": "AutoencoderKL",
        NAME_KEY: layout.name,
        **AUTOENCODER_CONSTANTS,
        "sample_size": image_size,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layout.layers_per_block,
        "latent_channels": layout.latent_channels,
        "norm_num_groups": layout.norm_groups,
        "scaling_factor": layout.scaling_factor,
        FORCE_UPCAST: layout.activation_scale != 1,
    }


def autoencoder_parts(config: Json, file: Path) -> tuple[str, ...]:
    """The halves whose weights a checkpoint with this config holds."""
    if config.get("_class_name") == TINY_AUTOENCODER_CLASS:
        return ("decoder",)
    if config.get("_class_name") != AUTOENCODER_CLASS:
        return ("decoder", "encoder")
    stored = parse(_StoredAutoencoder, config, file).parts
    return tuple(part for part in ("decoder", "encoder") if part in stored)


def text_encoder_layout(config: Json, file: Path) -> TextEncoderLayout:
    """Layout of a CLIP text config, alone or inside a whole CLIP config."""
    values = _text_values(config, file)
    return TextEncoderLayout(
        hidden=values.hidden_size,
        layers=values.num_hidden_layers,
        heads=values.num_attention_heads,
        intermediate=values.intermediate_size,
        activation=values.hidden_act,
        vocabulary=values.vocab_size,
        max_length=values.max_position_embeddings,
        norm_eps=values.layer_norm_eps,
    )


def pooled_layout(config: Json, file: Path) -> TextEncoderLayout:
    """The same with the pooled and projected output (transformers' `CLIPTextModelWithProjection`)."""
    values = _text_values(config, file)
    if values.eos_token_id is None or values.projection_dim is None:
        raise ArtifactError(
            f"{file}: 'eos_token_id' is {values.eos_token_id} and 'projection_dim' {values.projection_dim}; expected "
            "the token whose state is pooled, and to how many channels it is projected: copy the checkpoint again."
        )
    # Configs of before transformers 4.31 say 2, whatever the vocabulary; it reads them as the largest id of a text.
    end = None if values.eos_token_id == OLD_END_TOKEN else values.eos_token_id
    return replace(text_encoder_layout(config, file), projection=values.projection_dim, end_token=end)


OLD_END_TOKEN = 2


def _text_values(config: Json, file: Path) -> _TextEncoderConfig:
    if isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if config.get("model_type", "clip_text_model") not in ("clip_text_model", "clip"):
        raise ArtifactError(
            f"{file}: expected a CLIP text encoder (model_type 'clip_text_model'), found '{config['model_type']}'."
        )
    return parse(_TextEncoderConfig, config, file)


def text_encoder_config(layout: TextEncoderLayout) -> Json:
    """`text_encoder/config.json` as transformers' CLIPTextModel reads it, or its CLIPTextModelWithProjection. The last
    two token ids are start and end."""
    return {
        "architectures": ["CLIPTextModel" if layout.projection is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "hidden_size": layout.hidden,
        "projection_dim": layout.projection or layout.hidden,
        "intermediate_size": layout.intermediate,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": layout.heads,
        "hidden_act": layout.activation,
        "vocab_size": layout.vocabulary,
        "max_position_embeddings": layout.max_length,
        "layer_norm_eps": layout.norm_eps,
        "attention_dropout": 0.0,
        "bos_token_id": layout.vocabulary - 2,
        "eos_token_id": layout.vocabulary - 1 if layout.projection is None else layout.end_token or OLD_END_TOKEN,
        "pad_token_id": layout.vocabulary - 1,
    }


def parse(kind: type[Config], config: Json, file: Path) -> Config:
    """`config` as `kind`; the first thing that doesn't fit becomes an `ArtifactError` naming key and value."""
    mend = "use a checkpoint of one that it has, or copy this one again"
    # Before a layout is built of them, and again as the numbers that texts stand for.
    _check_bounds({name: config[name] for name in kind.model_fields if name in config}, file)
    try:
        values = validated(kind, config, f"'{file}'", "a config of a network or sampler that sfmobile has", mend)
    except UsageError as error:
        # A layout in it that can't run.
        raise ArtifactError(f"{file}: {error}") from error
    _check_bounds(values.model_dump(), file)
    return values


def _check_bounds(values: Json, file: Path) -> None:
    if (found := out_of_bounds(values)) is not None:
        raise ArtifactError(f"'{file}': {found}; copy the checkpoint again.")


def _check_class(config: Json, expected: str, file: Path) -> None:
    found = config.get("_class_name", expected)
    if found != expected:
        raise ArtifactError(f"{file}: expected a network of class {expected}, found {found}.")


def check_constants(config: Json, constants: Json, file: Path) -> None:
    """Raise `ArtifactError` for a key that asks for anything but what our networks have built in."""
    for key, expected in constants.items():
        found = config.get(key, expected)
        # One value per stage says the same as one for all, and "off" is written as null or as false.
        found_values = found if isinstance(found, list) and found else [found]
        if not all(value == expected or (not value and not expected) for value in found_values):
            raise ArtifactError(
                f"{file}: '{key}' is {found!r}; expected {expected!r}, the only form sfmobile's networks have."
            )


def _checked(kind: type[UNetLayout], file: Path, **values: Any) -> UNetLayout:
    try:
        return kind(**values)
    except UsageError as error:
        raise ArtifactError(f"{file}: {error}") from error


def _with_known_name(layout: Layout, known: Mapping[str, Layout]) -> Layout:
    """The layout under its own name if it is one of `known`."""
    for candidate in known.values():
        if replace(layout, name=candidate.name) == candidate:
            return candidate
    return layout
