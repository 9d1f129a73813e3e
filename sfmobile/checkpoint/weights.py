"""Where each weight of ours lives in a diffusers or transformers file, and the safetensors files themselves.

This is the one place that knows both naming schemes. Our networks keep diffusers' names; what differs is
- linear layers, stored (out, in), which we run as 1x1 convolutions (out, in, 1, 1);
- the text encoder, whose names are transformers' (behind `text_model.` up to transformers 4, bare since);
- the autoencoder's halves, stored as `encoder.`/`decoder.` with the quantisation convolutions beside them, and its
  attention, called `query`, `key`, `value`, `proj_attn` in files from before diffusers 0.18.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sfmobile.checkpoint.config import read_config
from sfmobile.checkpoint.safetensors_file import FLOATS, NARROW_FLOATS, SafetensorsFile
from sfmobile.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

# A component of a checkpoint, and the halves of its autoencoder.
PartName: TypeAlias = str
PARTS: tuple[PartName, ...] = ("text_encoder", "unet", "decoder", "encoder")
# Of them and of a second one, which some pipelines have.
TEXT_ENCODERS: tuple[PartName, ...] = ("text_encoder", "text_encoder_2")

FOLDERS: dict[PartName, str] = {
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "unet": "unet",
    "decoder": "vae",
    "encoder": "vae",
    # Laid over a checkpoint, never in one.
    "preview": "preview",
    # Opened if it is asked for.
    "safety_checker": "safety_checker",
}
STEMS: dict[str, str] = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
# Of components that are opened, and fetched, if they are asked for.
OPTIONAL_STEMS: dict[PartName, str] = {"safety_checker": "model"}

# Ours to transformers', behind `encoder.layers.N.`.
_TEXT_LAYER = {
    "self_attn.to_q": "self_attn.q_proj",
    "self_attn.to_k": "self_attn.k_proj",
    "self_attn.to_v": "self_attn.v_proj",
    "self_attn.to_out.0": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_PROJECTION = "text_projection.weight"
_OLD_PIXEL_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
# Buffers of old files that hold no weight, and what a whole CLIP has beside its text encoder.
_IGNORED = re.compile(
    r"(^|\.)position_ids$|^(vision_model|visual_projection|text_projection)\.|^logit_scale$|^text_model\.text_projection\."
)
# What stands in file names for another precision, in the order that local files are taken in.
VARIANTS = ("", ".fp16", ".bf16")
_TEXT_LAYER_NUMBER = re.compile(r"(?:text_model\.)?encoder\.layers\.(\d+)\.")
_FINAL_NORM = re.compile(r"(?:text_model\.)?final_layer_norm\.")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def stored_names(part: PartName, key: str) -> tuple[str, ...]:
    """Names under which a file may hold our weight `key`; the first is the one we write."""
    if part == "unet":
        return (key,)
    if part in TEXT_ENCODERS:
        name = _clip_name(key)
        # transformers has it beside the model that it projects from.
        return (name,) if key == _PROJECTION else (f"text_model.{name}", name)
    if part == "safety_checker":
        name = _clip_name(key)
        return (
            (name,)
            if key.startswith("visual_projection.")
            else (f"vision_model.vision_model.{name}", f"vision_model.{name}")
        )
    if key.startswith(("quant_conv.", "post_quant_conv.")):
        return (key,)
    half = "decoder" if part == "preview" else part
    name = f"{half}.{key}".replace(".attention.", ".")
    module, _, leaf = name.rpartition(".")
    for new, old in _OLD_PIXEL_ATTENTION.items():
        if ".attentions." in module and module.endswith(f".{new}"):
            return (name, f"{module.removesuffix(new)}{old}.{leaf}")
    return (name,)


def _clip_name(key: str) -> str:
    if key.startswith(("token_embedding.", "position_embedding.", "patch_embedding.", "class_embedding")):
        return f"embeddings.{key}"
    if key == "position_embedding":
        return f"embeddings.{key}.weight"
    matched = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", key)
    if matched is None:
        return key
    layer, module, leaf = matched.groups()
    return f"encoder.layers.{layer}.{_TEXT_LAYER.get(module, module)}.{leaf}"


def stored_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in which diffusers and transformers keep our weight `key` of `shape`: linear layers lose (1, 1)."""
    module = key.rpartition(".")[0].rpartition(".")[2]
    convolution = module.startswith("conv") or module in ("proj_in", "proj_out", "quant_conv", "post_quant_conv")
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) and not convolution else shape


def belongs_to(part: PartName, name: str) -> bool:
    """Whether a stored weight is `part`'s: a vae file holds both halves, a safety checker's its concepts too."""
    if part == "safety_checker":
        return name.startswith(("vision_model.", "visual_projection.")) and not name.endswith("position_ids")
    others = ("encoder.", "quant_conv.")
    prefixes = {"decoder": others, "preview": others, "encoder": ("decoder.", "post_quant_conv.")}
    return _IGNORED.search(name) is None and not name.startswith(prefixes.get(part, ("\0",)))


class StoredWeights(Mapping[str, "Tensor"]):
    """Tensors of a component by the names that diffusers or transformers give them, wherever they are stored.

    folder: what messages call the place.
    """

    folder: Path

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Stored shape, from the header alone."""

    @abstractmethod
    def file(self, name: str) -> Path:
        """The file that holds `name`."""


class WeightFiles(StoredWeights):
    """Memory-mapped tensors of the safetensors file or shards in one component folder, by stored name.

    Nothing is read before a tensor is used; a tensor's pages belong to the file, not to the process.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        """Open `folder`; raises `ArtifactError` for a missing, cut or pickled file."""
        self.folder = folder
        self._files: dict[str, SafetensorsFile] = {}
        for path, promised in weight_files(folder, stem).items():
            file = SafetensorsFile(path)
            absent = sorted((promised or set()) - set(file))
            if absent:
                raise ArtifactError(
                    f"{path} lacks '{absent[0]}' and {len(absent) - 1} more that its index lists; copy it again."
                )
            for name in promised or file:
                check_float(file, name)
                self._files[name] = file

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name][name]

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Stored shape, from the header alone."""
        return self._files[name].shape(name)

    def file(self, name: str) -> Path:
        """The file that holds `name`."""
        return self._files[name].path


def check_float(file: SafetensorsFile, name: str) -> None:
    """Raise `ArtifactError` for a weight of a type that networks don't have."""
    if file.dtype(name) not in FLOATS | NARROW_FLOATS and _IGNORED.search(name) is None:
        raise ArtifactError(
            f"{file.path}: '{name}' is stored as {file.dtype(name)}; expected F16, BF16 or F32 weights."
        )


class ComponentFiles(Mapping[str, StoredWeights]):
    """The weights of each folder of a checkpoint at `root`, opened when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: dict[str, StoredWeights] = {}

    def __getitem__(self, folder: str) -> StoredWeights:
        if folder not in self._opened:
            self._opened[folder] = WeightFiles(self._root / folder, STEMS[folder])
        return self._opened[folder]

    def __iter__(self) -> Iterator[str]:
        # A family's own: one of a single text encoder has no second.
        return (folder for folder in STEMS if folder in self._opened or (self._root / folder).is_dir())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def weight_files(folder: Path, stem: str) -> dict[Path, set[str] | None]:
    """The safetensors files of a component: each with the names its index lists, or None where there's no index.

    Full precision is taken before a variant if a folder has both.
    """
    for variant in VARIANTS:
        for index in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
            if (folder / index).is_file():
                return _shards(folder / index)
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return {single: None}
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES) if folder.is_dir() else []
    if pickles:
        raise ArtifactError(
            f"{folder} holds {pickles[0]}, a pickle, which can run code when it is opened; expected "
            f"{stem}.safetensors: convert the checkpoint with diffusers' save_pretrained(safe_serialization=True)."
        )
    others = sorted(path.name for path in folder.glob(f"{stem}.*safetensors")) if folder.is_dir() else []
    if others:
        raise ArtifactError(
            f"{folder} holds {others[0]}, a variant that nothing says the kind of; rename it {stem}.safetensors if it "
            "is the one that is meant."
        )
    if folder.is_dir() and (folder / "adapter_config.json").is_file():
        raise ArtifactError(
            f"{folder} holds a LoRA that was saved by peft in place of the network (adapter_config.json); take the "
            "base model's folder and lay the adapter over it with --lora."
        )
    raise ArtifactError(
        f"{folder / (stem + '.safetensors')} is missing, and so is an index of shards; copy the checkpoint again."
    )


def _shards(index: Path) -> dict[Path, set[str] | None]:
    weight_map = read_config(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArtifactError(f"{index} has no 'weight_map'; expected the index of a sharded safetensors checkpoint.")
    shards: dict[Path, set[str] | None] = {}
    for name, file in sorted(weight_map.items()):
        if not isinstance(file, str) or Path(file).name != file:
            raise ArtifactError(f"{index}: '{name}' points at {file!r}; expected the name of a file beside the index.")
        if not file.endswith(".safetensors"):
            raise ArtifactError(f"{index}: '{name}' points at {file!r}; expected a .safetensors file, never a pickle.")
        names = shards.setdefault(index.parent / file, set())
        if names is not None:
            names.add(name)
    for shard in shards:
        if not shard.is_file():
            raise ArtifactError(
                f"{shard} is missing, one of {len(shards)} shards that {index.name} lists; copy it again."
            )
    return shards


def read_weights(
    part: PartName, files: StoredWeights, expected: Mapping[str, tuple[int, ...]], text_layers: int | None = None
) -> dict[str, Tensor]:
    """Our weights of `part` from `files`, memory-mapped, with our names and shapes and the stored dtype.

    `expected` maps our names to our shapes. text_layers: of a text encoder, those that run; a file may hold more, as
    transformers loads it too. Raises `ArtifactError` on a missing or unexpected weight or a wrong shape.
    """
    found: dict[str, str] = {}
    missing: list[str] = []
    for key in expected:
        name = next((name for name in stored_names(part, key) if name in files), None)
        if name is None:
            missing.append(stored_names(part, key)[0])
        else:
            found[key] = name
    taken = set(found.values())
    unexpected = sorted(
        name for name in files if name not in taken and belongs_to(part, name) and not _is_skipped(name, text_layers)
    )
    if missing or unexpected:
        raise ArtifactError(_wrong_names(files.folder, missing, unexpected))
    for key, name in found.items():
        shape = files.shape(name)
        # A linear layer and a 1x1 convolution hold the same numbers in the same order, whichever a file chose.
        if _without_kernel(shape) != _without_kernel(expected[key]):
            raise ArtifactError(
                f"{files.file(name)}: '{name}' has shape {shape}; config.json asks for "
                f"{stored_shape(key, expected[key])}: config and weights are not of one model."
            )
    return {key: files[name].reshape(expected[key]) for key, name in found.items()}


def _is_skipped(name: str, text_layers: int | None) -> bool:
    """Whether `name` is of a text encoder's layers that don't run, or of the norm behind them."""
    matched = _TEXT_LAYER_NUMBER.match(name)
    if text_layers is None or matched is None:
        return text_layers is not None and _FINAL_NORM.match(name) is not None
    return int(matched[1]) >= text_layers


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def _wrong_names(folder: Path, missing: list[str], unexpected: list[str]) -> str:
    parts = []
    for label, names in (("lacks", missing), ("holds unknown", unexpected)):
        if names:
            parts.append(f"{label} '{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    if any(".base_layer." in name or ".lora_" in name for name in unexpected):
        return (
            f"{folder}: the checkpoint was saved with a LoRA that isn't fused ('{unexpected[0]}'); call diffusers' "
            "fuse_lora() and unload_lora_weights() before save_pretrained(), or lay the LoRA over the base with --lora."
        )
    if not missing:
        return (
            f"{folder}: the checkpoint {parts[0]}, of which config.json's network has no use; diffusers would leave "
            "such weights out with a warning: take them out, or correct config.json."
        )
    return f"{folder}: the checkpoint {', and '.join(parts)}; config and weights are not of one model."
