"""Writing a diffusers-format directory: configs, sharded safetensors, tokenizer, scheduler."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.bundle.samplers import SamplerRecord
from sfmobile.checkpoint.config import (
    AUTOENCODER_CLASS,
    UNET_CLASS,
    Json,
    autoencoder_config,
    text_encoder_config,
    unet_config,
)
from sfmobile.checkpoint.description import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS
from sfmobile.checkpoint.directory import (
    GUIDANCE_KEY,
    MODEL_INDEX,
    STEPS_KEY,
)
from sfmobile.checkpoint.scheduler import scheduler_config
from sfmobile.checkpoint.tokenizer import copy_tokenizer
from sfmobile.checkpoint.weights import FOLDERS, STEMS, PartName, stored_names, stored_shape
from sfmobile.errors import UnavailableError, UsageError
from sfmobile.files import draft_folder, json_text
from sfmobile.nets.layout import AutoencoderLayout, TextEncoderLayout, UNetLayout

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sfmobile.nets.autoencoder import Decoder, Encoder
    from sfmobile.nets.text_encoder import TextEncoder
    from sfmobile.nets.unet import UNet

MAX_SHARD_BYTES = 2 << 30
SECOND: PartName = "text_encoder_2"


@dataclass(frozen=True)
class Weights:
    """Weights to write: our names and shapes, and a function that makes one when its turn comes."""

    shapes: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]


@dataclass(frozen=True)
class SecondText:
    """A Stable Diffusion XL's second text encoder and its tokenizer, and values of each size's sinusoid."""

    layout: TextEncoderLayout
    tokenizer_dir: Path
    size_dimension: int = 256


def write_checkpoint(
    root: Path,
    *,
    text_encoder: TextEncoder,
    unet: UNet,
    decoder: Decoder,
    encoder: Encoder | None,
    scheduler: SamplerRecord,
    tokenizer_dir: Path,
    latent_size: tuple[int, int] = (64, 64),
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    default_steps: int = DEFAULT_STEPS,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the networks as a checkpoint at `root` (fp16 unless `dtype` says otherwise).

    Everything is written beside `root` and moved into place at the end, `model_index.json` last; other files in an
    existing `root`, a model card say, stay. A checkpoint whose layouts diffusers can express is a
    StableDiffusionPipeline to it, which always samples unclipped and with `steps_offset` 1.
    `encoder` None writes a checkpoint that can generate but not encode. Raises `UsageError` if the networks don't fit
    together, `UnavailableError` if the disk is full or read-only.
    """
    if encoder is not None and encoder.layout != decoder.layout:
        raise UsageError("The encoder and the decoder come from different autoencoder layouts; build both from one.")
    nets = {"text_encoder": text_encoder, "unet": unet, "decoder": decoder, "encoder": encoder}
    weights: dict[PartName, Weights] = {}
    part: PartName
    for part in FOLDERS:
        net = nets.get(part)
        if net is not None:
            state = _as_stored(net)
            weights[part] = Weights({key: tuple(value.shape) for key, value in state.items()}, state.__getitem__)
    write_parts(
        root,
        weights,
        text_encoder_layout=text_encoder.layout,
        unet_layout=unet.layout,
        autoencoder_layout=decoder.layout,
        scheduler=scheduler,
        tokenizer_dir=tokenizer_dir,
        latent_size=latent_size,
        guidance_scale=guidance_scale,
        default_steps=default_steps,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )


def _as_stored(net: nn.Module) -> dict[str, Tensor]:
    """A network's weights without the activation scale of its layout, which whoever reads them puts in."""
    from sfmobile.nets.autoencoder import weight_scale

    state: dict[str, Tensor] = net.state_dict()
    scale = getattr(net.layout, "activation_scale", 1.0)
    return {key: weight if scale == 1 else weight / weight_scale(key, scale) for key, weight in state.items()}


def write_parts(
    root: Path,
    weights: Mapping[PartName, Weights],
    *,
    text_encoder_layout: TextEncoderLayout,
    unet_layout: UNetLayout,
    autoencoder_layout: AutoencoderLayout,
    scheduler: SamplerRecord,
    tokenizer_dir: Path,
    latent_size: tuple[int, int],
    guidance_scale: float,
    default_steps: int,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
    second: SecondText | None = None,
) -> None:
    """`write_checkpoint` for weights that are made one at a time: memory stays below about one shard.

    second: of a Stable Diffusion XL, whose `text_encoder_layout` is the first's.
    """
    from safetensors import SafetensorError

    unet_layout.check_latent_size(*latent_size)
    if root.exists() and (root.is_file() or (any(root.iterdir()) and not (root / MODEL_INDEX).is_file())):
        raise UsageError(
            f"{root} exists and is not a checkpoint; give a new directory or an older checkpoint to replace."
        )
    image_size = max(latent_size) * autoencoder_layout.downsampling
    halves = tuple(part for part in ("decoder", "encoder") if part in weights)
    sizes = () if second is None else (second.size_dimension,)
    configs = {
        "text_encoder": text_encoder_config(text_encoder_layout),
        **({} if second is None else {SECOND: text_encoder_config(second.layout)}),
        "unet": unet_config(unet_layout, latent_size, *sizes),
        "vae": autoencoder_config(autoencoder_layout, halves, image_size),
    }
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(root) as draft:
            for folder in configs:
                (draft / folder).mkdir(parents=True)
                _write(draft / folder / "config.json", configs[folder])
                stored = {part: weights[part] for part in weights if FOLDERS[part] == folder}
                _write_weights(draft / folder, STEMS[folder], stored, dtype, max_shard_bytes)
            (draft / "scheduler").mkdir()
            _write(draft / "scheduler" / "scheduler_config.json", scheduler_config(scheduler))
            copy_tokenizer(tokenizer_dir, draft / "tokenizer")
            if second is not None:
                copy_tokenizer(second.tokenizer_dir, draft / "tokenizer_2")
            _write(draft / MODEL_INDEX, _model_index(configs, scheduler, guidance_scale, default_steps))
            _move_into_place(draft, root)
    # safetensors turns the system's errors into its own.
    except (OSError, SafetensorError) as error:
        raise UnavailableError(
            f"The checkpoint {root} can't be written ({error}); free some space or choose another place. What was "
            "there before is still there."
        ) from error


def _model_index(
    configs: Mapping[str, Json], scheduler: SamplerRecord, guidance_scale: float, default_steps: int
) -> Json:
    ours = configs["unet"]["_class_name"] == UNET_CLASS or configs["vae"]["_class_name"] == AUTOENCODER_CLASS
    unet, vae = configs["unet"]["_class_name"], configs["vae"]["_class_name"]
    if SECOND in configs:
        name = "StableDiffusionXLPipeline"
        others: Json = {
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            SECOND: ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
    else:
        name = "SfmobilePipeline" if ours else "StableDiffusionPipeline"
        others = {"requires_safety_checker": False, "safety_checker": [None, None]}
    return {
        "_class_name": name,
        "_sfmobile_version": version("sfmobile"),
        GUIDANCE_KEY: guidance_scale,
        STEPS_KEY: default_steps,
        "feature_extractor": [None, None],
        **others,
        "scheduler": ["diffusers", scheduler_config(scheduler)["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["sfmobile" if unet == UNET_CLASS else "diffusers", unet],
        "vae": ["sfmobile" if vae == AUTOENCODER_CLASS else "diffusers", vae],
    }


def _write_weights(
    folder: Path, stem: str, parts: Mapping[PartName, Weights], dtype: torch.dtype | None, max_shard_bytes: int
) -> None:
    """Safetensors of one folder: a single file, or shards with an index where it would exceed `max_shard_bytes`."""
    import torch
    from safetensors.torch import save_file

    dtype = dtype or torch.float16
    shards: list[list[tuple[PartName, str]]] = [[]]
    filled = total = 0
    for part, weights in parts.items():
        for key, shape in weights.shapes.items():
            size = int(torch.Size(shape).numel()) * dtype.itemsize
            if shards[-1] and filled + size > max_shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append((part, key))
            filled += size
            total += size
    weight_map: dict[str, str] = {}
    for number, members in enumerate(shards, start=1):
        suffix = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = f"{stem}{suffix}.safetensors"
        tensors: dict[str, Any] = {}
        for part, key in members:
            tensor = parts[part].tensor(key).detach().to("cpu", dtype)
            name = stored_names(part, key)[0]
            tensors[name] = tensor.reshape(stored_shape(key, tuple(tensor.shape))).contiguous()
            weight_map[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
        # safetensors lets only the owner read what it wrote; a checkpoint is for whoever may read its configs.
        (folder / file).chmod((folder / "config.json").stat().st_mode & 0o777)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        _write(folder / f"{stem}.safetensors.index.json", index)


def _write(path: Path, value: Json) -> None:
    # In a draft of the whole checkpoint no file needs one of its own.
    path.write_text(json_text(value), encoding="utf-8")


def _move_into_place(draft: Path, root: Path) -> None:
    """Move the finished draft to `root`; over an older checkpoint, folder by folder with the index last."""
    if not root.exists() or not any(root.iterdir()):
        if root.exists():
            root.rmdir()
        draft.rename(root)
        return
    # Without its index a directory isn't a checkpoint, so a reader never sees half of the old and half of the new.
    (root / MODEL_INDEX).unlink()
    for entry in sorted(draft.iterdir(), key=lambda path: path.name == MODEL_INDEX):
        target = root / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.rename(target)
