"""The safety checker of a checkpoint: CLIP's vision encoder, the concepts it is compared with, how pictures come to it.

diffusers' StableDiffusionSafetyChecker in the folder `safety_checker`, and the CLIPImageProcessor in
`feature_extractor`. Both are opened when the component is asked for: most exports have no use for 600 MB of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from sfmobile.bundle.manifest import Files, SafetyPictureRecord, SafetyRecord
from sfmobile.bundle.pipeline import SAFETY_CHECKER
from sfmobile.checkpoint.config import ForeignConfig, Json, check_constants, parse, read_config
from sfmobile.checkpoint.weights import OPTIONAL_STEMS, WeightFiles, read_weights
from sfmobile.errors import ArtifactError
from sfmobile.nets.layout import VisionEncoderLayout

if TYPE_CHECKING:
    from torch import Tensor

SAFETY_CHECKER_CLASS = "StableDiffusionSafetyChecker"
PROCESSOR_FOLDER = "feature_extractor"
CONCEPTS, SPECIAL_CARE = "concepts.npy", "special_care.npy"
# What the processor has built in here; values are transformers' defaults. 3 is bicubic.
PROCESSOR_CONSTANTS: Json = {
    "default_to_square": False,
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,
}
OPENAI_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class _VisionConfig(ForeignConfig):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: Literal[3] = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5


class _CheckerConfig(ForeignConfig):
    projection_dim: int = 512


class _Edge(ForeignConfig):
    shortest_edge: int = Field(gt=0)


class _Square(ForeignConfig):
    height: int = Field(gt=0)
    width: int = Field(gt=0)


class _ProcessorConfig(ForeignConfig):
    size: int | _Edge = 224
    crop_size: int | _Square = 224
    image_mean: tuple[float, float, float] = OPENAI_CLIP_MEAN
    image_std: tuple[float, float, float] = OPENAI_CLIP_STD
    rescale_factor: float = 1 / 255


@dataclass(frozen=True)
class SafetyCheckerFiles:
    """The safety checker of the checkpoint at `root`. What it is read from is opened when it is first asked for.

    Each property raises `ArtifactError` naming the file that is missing, damaged or of another network.
    """

    root: Path

    @classmethod
    def named(cls, root: Path, index: Json) -> SafetyCheckerFiles | None:
        """That of the checkpoint whose `model_index.json` is `index`, or None if it names none that is known."""
        value = index.get(SAFETY_CHECKER)
        return cls(root) if isinstance(value, list) and value and value[-1] == SAFETY_CHECKER_CLASS else None

    @cached_property
    def layout(self) -> VisionEncoderLayout:
        """Of the vision encoder."""
        file = self.root / SAFETY_CHECKER / "config.json"
        config = read_config(file)
        # Where a file has both, transformers takes the second.
        vision = config.get("vision_config_dict") or config.get("vision_config")
        if not isinstance(vision, dict):
            raise ArtifactError(f"{file} has no 'vision_config'; expected the config of a {SAFETY_CHECKER_CLASS}.")
        values = parse(_VisionConfig, vision, file)
        if values.image_size % values.patch_size or values.hidden_size % values.num_attention_heads:
            raise ArtifactError(
                f"{file}: {values.image_size} pixels aren't cut into patches of {values.patch_size}, or "
                f"{values.hidden_size} channels into {values.num_attention_heads} heads; copy the checkpoint again."
            )
        return VisionEncoderLayout(
            hidden=values.hidden_size,
            layers=values.num_hidden_layers,
            heads=values.num_attention_heads,
            intermediate=values.intermediate_size,
            image_size=values.image_size,
            patch_size=values.patch_size,
            projection=parse(_CheckerConfig, config, file).projection_dim,
            activation=values.hidden_act,
            norm_eps=values.layer_norm_eps,
        )

    @cached_property
    def picture(self) -> SafetyPictureRecord:
        """How a picture is brought to it."""
        file = self.root / PROCESSOR_FOLDER / "preprocessor_config.json"
        config = read_config(file)
        check_constants(config, PROCESSOR_CONSTANTS, file)
        values = parse(_ProcessorConfig, config, file)
        edge = values.size if isinstance(values.size, int) else values.size.shortest_edge
        crop = values.crop_size
        square = _Square(height=crop, width=crop) if isinstance(crop, int) else crop
        expected = self.layout.image_size
        if not square.height == square.width == expected <= edge:
            raise ArtifactError(
                f"{file}: pictures are scaled to {edge} pixels and cut to {square.height}x{square.width}; the safety "
                f"checker takes {expected}x{expected}."
            )
        if abs(values.rescale_factor * 255 - 1) > 1e-6 or min(values.image_std) <= 0:
            raise ArtifactError(
                f"{file}: 'rescale_factor' is {values.rescale_factor} and 'image_std' {list(values.image_std)}; "
                "expected 1/255 and numbers above 0."
            )
        return SafetyPictureRecord(shortest_edge=edge, crop_size=expected, mean=values.image_mean, std=values.image_std)

    @cached_property
    def weights(self) -> WeightFiles:
        """The file or shards in its folder."""
        return WeightFiles(self.root / SAFETY_CHECKER, OPTIONAL_STEMS[SAFETY_CHECKER])

    def network(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Weights of the vision encoder under our names and in our `shapes`."""
        stored = {**shapes, "class_embedding": shapes["class_embedding"][-1:]}
        found = read_weights(SAFETY_CHECKER, self.weights, stored)
        return {name: tensor.reshape(shapes[name]) for name, tensor in found.items()}

    def concepts(self) -> dict[str, np.ndarray]:
        """Embeddings float32 (n, projection) by the name of the file that a bundle has them in."""
        return {CONCEPTS: self._rows("concept_embeds"), SPECIAL_CARE: self._rows("special_care_embeds")}

    def record(self, files: Files) -> SafetyRecord:
        """What a manifest says of it. files: of the embeddings, by their path in the bundle."""
        found = {path.rpartition("/")[2]: path for path in files}
        return SafetyRecord(
            concepts=found[CONCEPTS],
            special_care=found[SPECIAL_CARE],
            concept_thresholds=self._thresholds("concept_embeds"),
            special_care_thresholds=self._thresholds("special_care_embeds"),
            picture=self.picture,
            files=files,
        )

    def _rows(self, name: str) -> np.ndarray:
        rows: np.ndarray = self._float32(name)
        if rows.ndim != 2 or rows.shape[1] != self.layout.projection or not np.isfinite(rows).all():
            raise ArtifactError(
                f"{self.weights.folder}: '{name}' has shape {rows.shape}; expected rows of {self.layout.projection} "
                "finite numbers."
            )
        return rows

    def _thresholds(self, name: str) -> tuple[float, ...]:
        values, rows = self._float32(f"{name}_weights"), len(self._rows(name))
        if values.shape != (rows,) or not np.isfinite(values).all():
            raise ArtifactError(
                f"{self.weights.folder}: '{name}_weights' has shape {values.shape}; expected a threshold for each of "
                f"{rows} rows."
            )
        return tuple(float(value) for value in values)

    def _float32(self, name: str) -> Any:
        if name not in self.weights:
            raise ArtifactError(
                f"{self.weights.folder} lacks '{name}'; expected the weights of a {SAFETY_CHECKER_CLASS}."
            )
        return self.weights[name].float().numpy()
