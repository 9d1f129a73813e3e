"""Single `.safetensors` files of Stable Diffusion 1, 2 and XL, by the names of the original training code and A1111.

A file holds weights alone. Its configs follow from its shapes and from which text encoder it holds: CLIP's of
transformers (Stable Diffusion 1: 8 heads everywhere, noise prediction) or OpenCLIP's (2: heads of 64 channels, the last
layer left out) or both (XL, noise prediction unless a tensor says otherwise). Its vocabulary is CLIP's, which comes
with sfmobile. What a Stable Diffusion 2 predicts can't be seen: a `.yaml` beside the file tells, or `prediction`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.checkpoint.config import FORCE_UPCAST, Json
from sfmobile.checkpoint.ldm_names import (
    IGNORED,
    PREFIXES,
    Place,
    autoencoder_places,
    clip_places,
    open_clip_places,
    unet_places,
)
from sfmobile.checkpoint.safetensors_file import SafetensorsFile
from sfmobile.checkpoint.source import Prediction
from sfmobile.checkpoint.tokenizer import MERGES_FILE, SPECIAL_FILE, VOCAB_FILE
from sfmobile.checkpoint.weights import StoredWeights, check_float
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import cache_folder, draft_folder, read_text, sha256_of_value, write_json
from sfmobile.models import models_folder

if TYPE_CHECKING:
    from torch import Tensor

CLIP_VOCABULARY = 49408
HEAD_CHANNELS = 64
SCALING_FACTOR = 0.18215
XL_SCALING_FACTOR = 0.13025
# Values of each size's sinusoid.
XL_SIZE_DIMENSION = 256
_ATTENTION_NORM = r"(input|output)_blocks\.\d+\.1\.norm\.weight"
EMA = "model_ema.diffusion"
# Of a level; these models have two.
MOST_LAYERS = 16
# Which model a file is, by a name that only that one's files have.
OTHER_MODELS: dict[str, str] = {
    r"conditioner\.embedders\.0\.model\.": "the refiner of Stable Diffusion XL",
    r"(model\.diffusion_model\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(model\.diffusion_model\.)?double_blocks\.": "Flux",
    r"control_model\.|controlnet_": "a ControlNet",
    r"lora_|.*\.lora_(A|down|up)\.|.*lora\.(down|up)\.": "a LoRA; lay it over a checkpoint with --lora",
    r"emb_params$|string_to_": "a textual inversion; lay it over a checkpoint with --embedding",
    r"(encoder|decoder)\.(down|up|mid|conv_in)": "an autoencoder; lay it over a checkpoint with --vae",
}


class RenamedWeights(StoredWeights):
    """Tensors of one file under diffusers' names; some are rows of a stored one."""

    def __init__(self, file: SafetensorsFile, places: Mapping[str, Place]) -> None:
        self.folder = file.path
        self._file = file
        self._places = {name: place for name, place in places.items() if place.name in file}
        for place in self._places.values():
            check_float(file, place.name)

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        tensor = self._file[place.name]
        if place.transposed:
            return tensor.t()
        return tensor if place.part is None else tensor.chunk(3)[place.part]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Stored shape, from the header alone."""
        place = self._places[name]
        shape = self._file.shape(place.name)
        if place.transposed:
            return shape[::-1]
        if place.part is None:
            return shape
        return (shape[0] // 3, *shape[1:]) if shape and shape[0] % 3 == 0 else (0, *shape)

    def file(self, name: str) -> Path:
        """The file, whatever the name."""
        return self._file.path


@dataclass(frozen=True)
class SingleFile:
    """A single file taken apart. folder: diffusers' configs of what it holds and its tokenizer. files: its weights."""

    folder: Path
    files: Mapping[str, StoredWeights]
    notes: tuple[str, ...]


def open_single_file(
    path: Path,
    tokenizer: Path | None = None,
    prediction: Prediction | None = None,
    other_autoencoder: tuple[Json, StoredWeights] | None = None,
    ema: bool = False,
) -> SingleFile:
    """Take `path` apart. other_autoencoder: config and weights, for a file that may have none. ema: of the UNet's
    weights those that were averaged while it was trained.

    Raises `ArtifactError` for a file of another kind or model, `UsageError` where it must be said what it predicts.
    """
    file = SafetensorsFile(path, "a Stable Diffusion checkpoint")
    names = set(file)
    if not any(name.startswith(PREFIXES["unet"]) for name in names):
        raise ArtifactError(_named(path, names))
    for pattern, model in OTHER_MODELS.items():
        if any(re.match(pattern, name) for name in names):
            raise ArtifactError(f"{path} is {model}, which sfmobile doesn't export; use a Stable Diffusion 1, 2 or XL.")
    xl = any(name.startswith(PREFIXES["xl_open_clip"]) for name in names)
    second = not xl and any(name.startswith(PREFIXES["open_clip"]) for name in names)
    unet, unet_map = _unet(file, second or xl)
    text, text_map = _open_clip(file) if second else _clip(file, PREFIXES["xl_clip" if xl else "clip"])
    other, other_map = _open_clip(file, xl=True) if xl else ({}, {})
    if other_autoencoder is None:
        vae, vae_map = autoencoder(file, PREFIXES["vae"])
        vae_weights: StoredWeights = RenamedWeights(file, vae_map)
    else:
        (vae, vae_weights), vae_map = other_autoencoder, {}
    if xl and FORCE_UPCAST not in vae:
        # Of a file of LDM's names, which says neither; what bears float16 anyway is exact with it too.
        vae = {**vae, "scaling_factor": XL_SCALING_FACTOR, FORCE_UPCAST: True}
    taken = {place.name for places in (unet_map, text_map, other_map, vae_map) for place in places.values()}
    left_out = f"{PREFIXES['open_clip']}transformer.resblocks.{text['num_hidden_layers']}."
    strangers = sorted(name for name in names - taken if not re.match(IGNORED, name) and not name.startswith(left_out))
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise ArtifactError(
            f"{path} holds '{strangers[0]}'{more}, which a Stable Diffusion {_version(second, xl)} doesn't have; it is "
            "of another model."
        )
    averaged = any(name.startswith(EMA) for name in names)
    if ema:
        unet_map = _averaged(file, unet_map)
    predicted = prediction or _sidecar(path) or _marked(names)
    if predicted is None:
        if second:
            raise UsageError(
                f"{path} is a Stable Diffusion 2, of which some predict the noise and some v, and nothing in it says "
                "which; add --prediction epsilon (512-base and most of its finetunes) or --prediction v_prediction "
                "(768), or put its .yaml beside it."
            )
        predicted = "epsilon"
    size = 128 if xl else 96 if second and predicted == "v_prediction" else 64
    configs = {
        "unet/config.json": {**unet, "sample_size": size},
        "text_encoder/config.json": text,
        "vae/config.json": {**vae, "sample_size": 8 * size},
        "scheduler/scheduler_config.json": _scheduler(predicted, "ztsnr" in names, xl),
        "model_index.json": _index(xl),
    }
    if xl:
        configs["text_encoder_2/config.json"] = other
    folder = _write(path, configs, _tokenizer_folder(path, tokenizer, text["vocab_size"]), second and tokenizer is None)
    files = {
        "unet": RenamedWeights(file, unet_map),
        "text_encoder": RenamedWeights(file, text_map),
        "vae": vae_weights,
    }
    if xl:
        files["text_encoder_2"] = RenamedWeights(file, other_map)
    note = "The file holds averaged (EMA) weights too; the others are exported, as elsewhere: --ema takes these."
    return SingleFile(folder, files, (note,) if averaged and not ema else ())


def _version(second: bool, xl: bool) -> str:
    return "XL" if xl else "2" if second else "1"


def _averaged(file: SafetensorsFile, places: Mapping[str, Place]) -> dict[str, Place]:
    """Where the averages of the UNet's weights are: under its names without their first word and all dots."""
    found = {
        name: place._replace(name=f"model_ema.{place.name.partition('.')[2].replace('.', '')}")
        for name, place in places.items()
        if place.name in file
    }
    absent = sorted(place.name for place in found.values() if place.name not in file)
    if absent:
        raise ArtifactError(
            f"{file.path} doesn't hold the averaged (EMA) weights of its UNet ('{absent[0]}' is missing); leave --ema "
            "out, or use a file that has them."
        )
    return found


def _named(path: Path, names: set[str]) -> str:
    for pattern, model in OTHER_MODELS.items():
        if any(re.match(pattern, name) for name in names):
            return f"{path} is not a whole checkpoint: it is {model}."
    if any(name.startswith(("down_blocks.", "text_model.", "conv_in.")) for name in names):
        return (
            f"{path} is one component of a diffusers-format checkpoint; give the directory that holds model_index.json."
        )
    return (
        f"{path} holds no UNet of Stable Diffusion ('{PREFIXES['unet']}…' is missing); expected a single-file "
        "checkpoint of Stable Diffusion 1, 2 or XL."
    )


def _unet(file: SafetensorsFile, second: bool) -> tuple[Json, dict[str, Place]]:
    prefix = PREFIXES["unet"]
    names = {name.removeprefix(prefix) for name in file if name.startswith(prefix)}
    down = sorted(
        int(found[1]) for name in names if (found := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", name))
    )

    def shape(name: str) -> tuple[int, ...]:
        return _shape(file, prefix + name)

    layers = down[0] - 1 if down else 0
    if not 1 <= layers <= MOST_LAYERS or down != [(layers + 1) * (level + 1) for level in range(len(down))]:
        raise ArtifactError(f"{file.path}: the blocks of its UNet aren't those of a Stable Diffusion.")
    levels = len(down) + 1

    def depth(block: str) -> int:
        """Transformer layers of an attention block."""
        pattern = re.compile(rf"{re.escape(block)}\.1\.transformer_blocks\.(\d{{1,3}})\.norm1\.weight")
        return sum(pattern.fullmatch(name) is not None for name in names)

    channels, attended = [], []
    depths = [[depth(f"input_blocks.{1 + n * (layers + 1) + layer}") for layer in range(layers)] for n in range(levels)]
    rising = [
        [depth(f"output_blocks.{n * (layers + 1) + layer}") for layer in range(layers + 1)] for n in range(levels)
    ]
    for level in range(levels):
        first = 1 + level * (layers + 1)
        channels.append(shape(f"input_blocks.{first}.0.out_layers.3.weight")[0])
        attended.append(f"input_blocks.{first}.1.norm.weight" in names)
    middle = "middle_block.1.norm.weight" in names
    # Where the context's width and the kind of projection are seen: any attention block.
    blocks = sorted(name.removesuffix(".norm.weight") for name in names if re.fullmatch(_ATTENTION_NORM, name))
    seen = "middle_block.1" if middle or not blocks else blocks[0]
    context = shape(f"{seen}.transformer_blocks.0.attn2.to_k.weight")[1]
    linear = len(shape(f"{seen}.proj_in.weight")) == 2
    added: Json = {}
    if "label_emb.0.0.weight" in names:
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": XL_SIZE_DIMENSION,
            "projection_class_embeddings_input_dim": shape("label_emb.0.0.weight")[1],
            "transformer_layers_per_block": [one if any(one) else 1 for one in depths],
            "reverse_transformer_layers_per_block": [one if any(one) else 1 for one in rising],
            "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        }
        if middle and not any(depths[-1]):
            # diffusers gives the middle what it says of the lowest level.
            added["transformer_layers_per_block"][-1] = depth("middle_block")
        elif middle and depth("middle_block") != depths[-1][0]:
            raise ArtifactError(
                f"{file.path}: the middle of its UNet has {depth('middle_block')} transformer layers and the block "
                f"before it {depths[-1][0]}; no published Stable Diffusion XL has: it is of another model."
            )
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shape("input_blocks.0.0.weight")[1],
        "out_channels": shape("out.2.weight")[0],
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attended)],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "cross_attention_dim": context,
        "attention_head_dim": [max(1, width // HEAD_CHANNELS) for width in channels] if second else 8,
        "use_linear_projection": linear,
        **added,
    }
    deepest = max((each for level in (*depths, *rising) for each in level), default=1)
    return config, unet_places(prefix, len(channels), layers, set(file), max(deepest, depth("middle_block"), 1))


def _clip(file: SafetensorsFile, prefix: str) -> tuple[Json, dict[str, Place]]:
    if not any(name.startswith(prefix) for name in file):
        raise ArtifactError(
            f"{file.path} holds no text encoder ('{prefix}…' is missing); expected a whole checkpoint: use one "
            "that has it."
        )
    inner = "text_model." if any(name.startswith(f"{prefix}text_model.") for name in file) else ""
    stem = prefix + inner
    hidden = _shape(file, f"{stem}embeddings.token_embedding.weight")[1]
    config = _text_config(
        hidden=hidden,
        layers=_count(file, rf"{re.escape(stem)}encoder\.layers\.(\d+)\."),
        vocabulary=_shape(file, f"{stem}embeddings.token_embedding.weight")[0],
        positions=_shape(file, f"{stem}embeddings.position_embedding.weight")[0],
        intermediate=_shape(file, f"{stem}encoder.layers.0.mlp.fc1.weight")[0],
        activation="quick_gelu",
    )
    return config, clip_places(file, stem)


def _open_clip(file: SafetensorsFile, xl: bool = False) -> tuple[Json, dict[str, Place]]:
    prefix = PREFIXES["xl_open_clip" if xl else "open_clip"]
    layers = _count(file, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.")
    hidden = _shape(file, f"{prefix}token_embedding.weight")[1]
    config = _text_config(
        hidden=hidden,
        # Stable Diffusion 2 reads what comes before the last layer, XL what the last gives too.
        layers=layers if xl else layers - 1,
        vocabulary=_shape(file, f"{prefix}token_embedding.weight")[0],
        positions=_shape(file, f"{prefix}positional_embedding")[0],
        intermediate=_shape(file, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")[0],
        activation="gelu",
    )
    if not xl:
        return config, open_clip_places(prefix, layers - 1)
    config |= {
        "architectures": ["CLIPTextModelWithProjection"],
        "projection_dim": _shape(file, f"{prefix}text_projection")[1],
    }
    return config, open_clip_places(prefix, layers, projects=True)


def _text_config(
    *, hidden: int, layers: int, vocabulary: int, positions: int, intermediate: int, activation: str
) -> Json:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": hidden,
        "projection_dim": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // HEAD_CHANNELS),
        "hidden_act": activation,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def autoencoder(file: SafetensorsFile, prefix: str) -> tuple[Json, dict[str, Place]]:
    """Config and names of the autoencoder in a file of LDM's names, behind `prefix`."""
    if f"{prefix}decoder.conv_in.weight" not in file:
        raise ArtifactError(
            f"{file.path} holds no autoencoder ('{prefix}decoder.conv_in.weight' is missing); name one with --vae."
        )
    levels = _count(file, rf"{re.escape(prefix)}encoder\.down\.(\d+)\.")
    layers = _count(file, rf"{re.escape(prefix)}encoder\.down\.0\.block\.(\d+)\.")
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [
            _shape(file, f"{prefix}encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": layers,
        "latent_channels": _shape(file, f"{prefix}decoder.conv_in.weight")[1],
        "scaling_factor": SCALING_FACTOR,
    }
    return config, autoencoder_places(prefix, levels, layers)


def _shape(file: SafetensorsFile, name: str) -> tuple[int, ...]:
    """Shape of a tensor that must be there, of two dimensions or more."""
    if name not in file:
        raise ArtifactError(f"{file.path} lacks '{name}'; it is cut or of another model: download it again.")
    shape = file.shape(name)
    if len(shape) < 2 or 0 in shape:
        raise ArtifactError(f"{file.path}: '{name}' has shape {shape}; it is damaged: download it again.")
    return shape


def _count(file: SafetensorsFile, pattern: str) -> int:
    """How many numbers from 0 on match in the file's names."""
    numbers = {int(found[1]) for name in file if (found := re.match(pattern, name)) and len(found[1]) < 4}
    count = len(numbers)
    if numbers != set(range(count)) or not count:
        raise ArtifactError(f"{file.path}: its layers aren't numbered from 0 on; it is damaged: download it again.")
    return count


def _sidecar(path: Path) -> Prediction | None:
    """What the training's settings beside the file say: `parameterization: "v"`, as A1111 reads it."""
    settings = path.with_suffix(".yaml")
    if not settings.is_file():
        return None
    text = read_text(settings, "the settings that a checkpoint was trained with", "take it away if it isn't")
    found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    if found is not None and found[1] not in ("v", "eps"):
        raise ArtifactError(f"{settings}: 'parameterization' is '{found[1]}'; expected v or eps.")
    return "v_prediction" if found is not None and found[1] == "v" else "epsilon"


def _marked(names: set[str]) -> Prediction | None:
    """What newer files say by an empty tensor of this name."""
    return "v_prediction" if "v_pred" in names else None


def _scheduler(prediction: Prediction, zero_snr: bool, xl: bool = False) -> Json:
    if xl:
        return {
            "_class_name": "EulerDiscreteScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": prediction,
            "steps_offset": 1,
            "rescale_betas_zero_snr": zero_snr,
            "timestep_spacing": "trailing" if zero_snr else "leading",
        }
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "rescale_betas_zero_snr": zero_snr,
        "timestep_spacing": "trailing" if zero_snr else "leading",
    }


def _index(xl: bool = False) -> Json:
    if xl:
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.35.0",
            "feature_extractor": [None, None],
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
    return {
        "_class_name": "StableDiffusionPipeline",
        # From before that version diffusers corrects sample sizes.
        "_diffusers_version": "0.35.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _tokenizer_folder(path: Path, given: Path | None, vocabulary: int) -> Path:
    if given is not None:
        return given
    if vocabulary != CLIP_VOCABULARY:
        raise UsageError(
            f"{path} knows {vocabulary} tokens and CLIP's vocabulary has {CLIP_VOCABULARY}; name a directory with its "
            "own by --tokenizer."
        )
    return models_folder() / "glyph" / "tokenizer"


def _write(path: Path, configs: Mapping[str, Json], tokenizer: Path, pads_with_exclamation_mark: bool) -> Path:
    """A folder of the cache with the configs and the tokenizer, by their content; made anew, or there already."""
    from sfmobile.checkpoint.tokenizer import copy_tokenizer

    marks = [sorted((file.name, file.stat().st_size) for file in tokenizer.glob("*")), str(tokenizer)]
    key = sha256_of_value({"configs": configs, "tokenizer": marks, "pad": pads_with_exclamation_mark})[:16]
    folder = cache_folder("single-files") / key / "checkpoint"
    if (folder / "model_index.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with draft_folder(folder) as draft:
        copy_tokenizer(tokenizer, draft / "tokenizer")
        if pads_with_exclamation_mark:
            _pad_as_stable_diffusion_2(draft / "tokenizer")
        if "text_encoder_2/config.json" in configs:
            copy_tokenizer(tokenizer, draft / "tokenizer_2")
            _pad_as_stable_diffusion_2(draft / "tokenizer_2")
        for file, config in configs.items():
            (draft / file).parent.mkdir(exist_ok=True)
            write_json(draft / file, config)
        try:
            draft.rename(folder)
        except OSError:
            # Another process was faster.
            if not (folder / "model_index.json").is_file():
                raise
    return folder


def _pad_as_stable_diffusion_2(folder: Path) -> None:
    """Stable Diffusion 2, and XL's second text encoder, were trained with "!" behind the end of text."""
    for file in folder.iterdir():
        if file.name not in (VOCAB_FILE, MERGES_FILE):
            file.unlink()
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special = {key: {"content": token, **flags} for key, token in ends.items()}
    write_json(folder / SPECIAL_FILE, {**special, "pad_token": "!"})
    write_json(folder / "tokenizer_config.json", {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
