"""LoRA files: low-rank changes of weights, merged into them when they are read.

Read are the names of kohya (`lora_unet_…lora_down.weight`), of diffusers old and new (`unet.….processor.to_q_lora…`,
`unet.….lora_A.weight`) and of peft, with their alphas; changes of linear layers and convolutions (arXiv 2106.09685),
LyCORIS' CP decomposition of the latter, LoHa (arXiv 2108.06098) and plain differences. A change that isn't understood
is refused by name, since leaving it out would draw another picture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.bundle.pipeline import UNET
from sfmobile.checkpoint.ldm_names import unet_places
from sfmobile.checkpoint.safetensors_file import FLOATS, NARROW_FLOATS, SafetensorsFile
from sfmobile.checkpoint.weights import PartName, stored_names
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import parse_json, sha256_of_file

if TYPE_CHECKING:
    from torch import Tensor

# How a name ends, and what the tensor is in the formulas below. Longer endings first where one ends with another.
_ROLES: dict[str, str] = {
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".alpha": "alpha",
    ".hada_w1_a": "hada_w1_a",
    ".hada_w1_b": "hada_w1_b",
    ".hada_w2_a": "hada_w2_a",
    ".hada_w2_b": "hada_w2_b",
    ".diff": "diff",
    ".diff_b": "diff_b",
}
_FORMS: dict[frozenset[str], str] = {
    frozenset({"down", "up"}): "lora",
    frozenset({"down", "up", "mid"}): "cp",
    frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}): "loha",
    frozenset({"diff"}): "diff",
    frozenset({"diff_b"}): "diff_b",
    frozenset({"diff", "diff_b"}): "diff",
}
# What an ending that isn't read means.
_FOREIGN: dict[str, str] = {
    "dora_scale": "DoRA, which rescales whole rows",
    "lora_magnitude_vector": "DoRA, which rescales whole rows",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "hada_t": "LoHa with a CP decomposition",
    "lora_B.bias": "a LoRA with biases",
    ".w_norm": "a change of normalisation layers",
    ".b_norm": "a change of normalisation layers",
}
# Prefixes of networks that no Stable Diffusion with a UNet has.
_OTHER_MODELS: dict[str, str] = {
    "lora_te3_": "Stable Diffusion 3",
    "lora_transformer_": "a transformer such as Flux or Stable Diffusion 3",
    "transformer.": "a transformer such as Flux or Stable Diffusion 3",
    "lora_prior_": "Würstchen or Kandinsky",
}
_PREFIXES: dict[str, PartName] = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
}
# kohya's for the text encoder of a model that has one alone.
_ONLY_ENCODER = "lora_te_"
_DOWN_RESNET = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.")
_TRANSFORMER_LAYER = re.compile(r"\.transformer_blocks\.(\d+)\.")
METADATA_KEY = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
MEND = "use a LoRA of this kind of model"


@dataclass(frozen=True)
class LoraChange:
    """What one file does to one weight, or (`diff_b`) to a bias.

    tensors: names in the file by role. factor: alpha over rank, and the file's scale.
    """

    file: SafetensorsFile
    form: str
    layer: str
    tensors: Mapping[str, str]
    factor: float

    def delta(self, shape: tuple[int, ...]) -> Tensor:
        """The change, float32, of a weight of `shape`. Raises `ArtifactError` for values that aren't finite."""
        import torch

        parts = {role: self.file[name].float() for role, name in self.tensors.items()}
        if self.form in ("diff", "diff_b"):
            change = parts[self.form]
        elif self.form == "loha":
            change = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        elif self.form == "cp":
            up, down = parts["up"].flatten(1), parts["down"].flatten(1)
            change = torch.einsum("op,pqhw,qi->oihw", up, parts["mid"], down)
        else:
            change = parts["up"].flatten(1) @ parts["down"].flatten(1)
        change = change.reshape(shape) * self.factor
        if not bool(torch.isfinite(change).all()):
            raise ArtifactError(
                f"{self.file.path}: the change of '{self.layer}' holds infinite values or NaN; the LoRA is damaged, "
                "download it again."
            )
        return change


class Lora:
    """A LoRA file at a scale. Opening reads the header; tensors are mapped when a weight is merged."""

    def __init__(self, path: Path, scale: float = 1.0) -> None:
        """Raises `ArtifactError` for what is no LoRA, `UsageError` for a scale that is no number."""
        if not math.isfinite(scale):
            raise UsageError(f"The scale of the LoRA '{path}' is {scale}; expected a finite number such as 0.8.")
        self.path, self.scale = path, scale
        self.file = SafetensorsFile(path, "a LoRA")
        self.digest = sha256_of_file(path)
        for name in self.file:
            if self.file.dtype(name) not in FLOATS | NARROW_FLOATS and not name.endswith(".alpha"):
                raise ArtifactError(
                    f"{path}: '{name}' is stored as {self.file.dtype(name)}; expected a LoRA of floating-point tensors."
                )
        self._alphas = _recorded_alphas(self.file)
        self._layers: dict[str, dict[str, str]] = {}
        for name in self.file:
            layer, role = self._parsed(name)
            if role in self._layers.setdefault(layer, {}):
                raise ArtifactError(f"{path}: '{self._layers[layer][role]}' and '{name}' are one and the same; {MEND}.")
            self._layers[layer][role] = name
        if not self._layers:
            raise ArtifactError(f"{path} holds no tensor; expected a LoRA: download it again.")

    def changes(
        self, shapes: Mapping[PartName, Mapping[str, tuple[int, ...]]]
    ) -> dict[PartName, dict[str, LoraChange]]:
        """What the file does to each weight of ours, by network; every layer of it must be one of theirs.

        shapes: of our weights. Raises `ArtifactError` naming the first layer that is none or doesn't fit.
        """
        known = _modules(shapes)
        found: dict[PartName, dict[str, LoraChange]] = {}
        for layer, tensors in self._layers.items():
            part, module = self._module(layer, known)
            factor = self.scale * self._alpha_over_rank(layer, tensors)
            roles = frozenset(tensors) - {"alpha"}
            form = _FORMS.get(roles)
            if form is None:
                raise ArtifactError(
                    f"{self.path}: of the change of '{layer}' only {', '.join(sorted(roles)) or 'alpha'} is there; "
                    "download the file again."
                )
            used = {role: name for role, name in tensors.items() if role not in ("alpha", "diff_b")}
            if used:
                self._add(found, part, f"{module}.weight", LoraChange(self.file, form, layer, used, factor), shapes)
            if "diff_b" in tensors:
                bias = {"diff_b": tensors["diff_b"]}
                change = LoraChange(self.file, "diff_b", layer, bias, factor)
                self._add(found, part, f"{module}.bias", change, shapes)
        return found

    def _add(
        self,
        found: dict[PartName, dict[str, LoraChange]],
        part: PartName,
        key: str,
        change: LoraChange,
        shapes: Mapping[PartName, Mapping[str, tuple[int, ...]]],
    ) -> None:
        shape = shapes[part].get(key)
        given = {role: self.file.shape(name) for role, name in change.tensors.items()}
        if shape is None or not _fits(change.form, given, shape):
            have = "doesn't exist" if shape is None else f"is {_by(shape)}"
            sizes = ", ".join(f"{role} {_by(size)}" for role, size in given.items())
            raise ArtifactError(
                f"{self.path}: the change of '{change.layer}' is of {sizes}, and the weight of the {part} {have}; it "
                f"is for another architecture: {MEND}."
            )
        if key in found.setdefault(part, {}):
            raise ArtifactError(
                f"{self.path}: '{found[part][key].layer}' and '{change.layer}' both change {key} of the {part}; {MEND}."
            )
        found[part][key] = change

    def _parsed(self, name: str) -> tuple[str, str]:
        """The layer that a tensor belongs to, as the file names it, and the tensor's role."""
        for sign, what in _FOREIGN.items():
            if sign in name:
                raise ArtifactError(f"{self.path}: '{name}' is of {what}, which sfmobile doesn't merge; {MEND}.")
        for prefix, model in _OTHER_MODELS.items():
            if name.startswith(prefix):
                raise ArtifactError(f"{self.path} is a LoRA for {model} ('{name}'); {MEND}.")
        for ending, role in _ROLES.items():
            if name.endswith(ending):
                layer = name.removesuffix(ending)
                # diffusers' attention processors of 2023: `attn1.processor.to_q_lora`, and `to_out` without its number.
                if ".processor." in layer:
                    layer = re.sub(r"\.to_out$", ".to_out.0", layer.replace(".processor.", "."))
                return layer, role
        raise ArtifactError(f"{self.path}: '{name}' is no part of a LoRA; expected names such as …lora_down.weight.")

    def _module(self, layer: str, known: Mapping[PartName, Mapping[str, str]]) -> tuple[PartName, str]:
        """The network and our module that the file's `layer` changes."""
        bare = layer.removeprefix("base_model.model.")
        prefix = next((prefix for prefix in _PREFIXES if bare.startswith(prefix)), None)
        second = "text_encoder_2" in known
        if prefix is not None and (_PREFIXES[prefix] not in known or (second and prefix == _ONLY_ENCODER)):
            model = "Stable Diffusion 1 or 2" if second else "Stable Diffusion XL"
            raise ArtifactError(f"{self.path} is a LoRA for {model} ('{layer}'); {MEND}.")
        parts = tuple(known) if prefix is None else (_PREFIXES[prefix],)
        for part in parts:
            module = known.get(part, {}).get(bare.removeprefix(prefix or ""))
            if module is not None:
                return part, module
        where = " or ".join(f"the {part}" for part in parts)
        raise ArtifactError(
            f"{self.path}: it changes '{layer}', which {where} doesn't have; it is for another architecture: {MEND}."
        )

    def _alpha_over_rank(self, layer: str, tensors: Mapping[str, str]) -> float:
        """By how much the product is scaled: 1 where the file gives no alpha."""
        inner = tensors.get("down") or tensors.get("hada_w1_b")
        if inner is None:
            return 1.0
        rank = self.file.shape(inner)[0] if self.file.shape(inner) else 0
        if "alpha" in tensors:
            value = self.file[tensors["alpha"]]
            alpha = float(value) if value.numel() == 1 else math.nan
        else:
            alpha, rank = self._alphas.of(layer, rank)
        if not math.isfinite(alpha) or rank < 1:
            raise ArtifactError(
                f"{self.path}: '{layer}' has alpha {alpha:g} and rank {rank}; expected two finite numbers: download "
                "the file again."
            )
        return alpha / rank


@dataclass(frozen=True)
class _Alphas:
    """The alphas that diffusers and peft record beside the tensors, by prefix; rank-stabilised ones by its root."""

    path: Path
    configs: Mapping[str, Mapping[str, Any]]

    def of(self, layer: str, rank: int) -> tuple[float, Any]:
        """Alpha of a layer, and what it is divided by."""
        for prefix, config in self.configs.items():
            if layer.startswith(prefix):
                alpha = config.get("lora_alpha")
                for pattern, value in (config.get("alpha_pattern") or {}).items():
                    if re.search(r"[^\w.]", pattern):
                        raise ArtifactError(
                            f"{self.path}: the alpha of '{pattern}' is given by a pattern, which isn't read here; "
                            "fuse the LoRA with diffusers first."
                        )
                    if layer == f"{prefix}{pattern}" or layer.endswith(f".{pattern}"):
                        alpha = value
                if not isinstance(alpha, (int, float)):
                    return math.nan, rank
                return float(alpha), math.sqrt(rank) if config.get("use_rslora") else rank
        return float(rank), rank


def _recorded_alphas(file: SafetensorsFile) -> _Alphas:
    beside = file.path.parent / PEFT_CONFIG
    if METADATA_KEY in file.metadata:
        where = f"The LoRA's settings in '{file.path}'"
        settings = parse_json(file.metadata[METADATA_KEY], where, "a JSON object", "download the file again")
        if not isinstance(settings, dict):
            raise ArtifactError(f"{where} are no JSON object; download the file again.")
        configs: dict[str, dict[str, Any]] = {}
        for key, value in settings.items():
            prefix, _, name = key.partition(".")
            configs.setdefault(f"{prefix}.", {})[name] = value
    elif file.path.name.startswith("adapter_model") and beside.is_file():
        from sfmobile.checkpoint.config import read_config

        configs = {"": read_config(beside)}
    else:
        configs = {}
    for config in configs.values():
        if config.get("use_dora"):
            raise ArtifactError(f"{file.path} is of {_FOREIGN['dora_scale']}, which sfmobile doesn't merge; {MEND}.")
    return _Alphas(file.path, configs)


def _modules(shapes: Mapping[PartName, Mapping[str, tuple[int, ...]]]) -> dict[PartName, dict[str, str]]:
    """Our modules by every name that a LoRA may give them: with dots, and with underscores as kohya writes."""
    known: dict[PartName, dict[str, str]] = {}
    for part, keys in shapes.items():
        names = known.setdefault(part, {})
        for key in keys:
            module, _, leaf = key.rpartition(".")
            if leaf == "weight":
                for stored in stored_names(part, key):
                    name = stored.removesuffix(".weight")
                    names[name] = names[name.replace(".", "_")] = module
        if part == UNET:
            names.update(_ldm_names(keys))
    return known


def _ldm_names(keys: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """A UNet's modules by the names that they had in LDM, with underscores, as kohya writes those of Stable Diffusion
    XL; none for a UNet that LDM has no name for."""
    numbers = [tuple(map(int, found.groups())) for key in keys if (found := _DOWN_RESNET.match(key))]
    if not numbers:
        return {}
    levels, layers = (max(column) + 1 for column in zip(*numbers, strict=True))
    depth = max((int(found[1]) for key in keys if (found := _TRANSFORMER_LAYER.search(key))), default=0) + 1
    # Behind the attention of its last block an upsampler is the third module.
    attended = {
        f"output_blocks.{level * (layers + 1) + layers}.2.conv.weight"
        for level in range(levels)
        if f"up_blocks.{level}.attentions.{layers}.norm.weight" in keys
    }
    return {
        place.name.removesuffix(".weight").replace(".", "_"): ours.removesuffix(".weight")
        for ours, place in unet_places("", levels, layers, attended, depth).items()
        if ours in keys and ours.endswith(".weight")
    }


def _fits(form: str, given: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]) -> bool:
    """Whether the tensors of a change multiply to a weight of `shape`: (out, in, kernel, kernel)."""
    if form in ("diff", "diff_b"):
        return _plain(given[form]) == _plain(shape)
    if len(shape) != 4:
        return False
    out, inner, *kernel = shape
    if form == "loha":
        (w1_a, w1_b, w2_a, w2_b) = (given[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
        flat = inner * math.prod(kernel)
        return all(
            len(a) == len(b) == 2 and (a[0], b[1]) == (out, flat) and a[1] == b[0] > 0
            for a, b in ((w1_a, w1_b), (w2_a, w2_b))
        )
    down, up = given["down"], given["up"]
    if len(down) not in (2, 4) or len(up) not in (2, 4):
        return False
    if _plain(up) != (out, down[0]) and form == "lora":
        return False
    if form == "lora":
        return down[0] > 0 and (down[1], *(down[2:] or (1, 1))) == (inner, *kernel)
    mid = given["mid"]
    return len(mid) == 4 and _plain(up) == (out, mid[0]) and _plain(down) == (mid[1], inner) and [*mid[2:]] == kernel


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
