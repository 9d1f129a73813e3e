"""What a stage left, said by the file itself: the networks in it, and how they are to be used.

The record stands in the metadata of the stage's safetensors file, so that it is committed with the weights and can't be
of others. Shapes don't tell all: neither how many heads an attention has, nor on which noise schedule it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator
from torch import Tensor

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.errors import ArtifactError
from sfmobile.files import StrictModel, parse_json, validated
from sfmobile.nets.layout import AutoencoderLayout, TextEncoderLayout, UNetLayout
from sfmobile.train.state import load_metadata, save_tensors

WEIGHTS, POOL = "weights.safetensors", "pool.safetensors"
_KEY = "stage"


class UNetRecord(StrictModel):
    """How to sample with a UNet.

    layout: with a guidance embedding where the scale is an input; schedule: of the noise it was trained to remove;
    latents: that it was trained on; text_encoder_from: the stage of the same run whose text encoder it listens to, None
    for one in the same file.
    """

    layout: UNetLayout
    schedule: DDIMRecord
    latents: LatentsRecord
    text_encoder_from: str | None

    @field_validator("schedule", mode="before")
    @classmethod
    def _of_older_runs(cls, value: Any) -> Any:
        # Older runs kept a number of steps here.
        return (
            {key: held for key, held in value.items() if key != "default_steps"} if isinstance(value, dict) else value
        )


class StageRecord(StrictModel):
    """What a stage left. kind: of the stage; the networks in the file, their weights named `<field>.<parameter>`.

    The scaling factor in an autoencoder's layout is that of its weights. latents: those of a pool.
    """

    schema_version: Literal[1] = 1
    kind: str
    unet: UNetRecord | None = None
    text_encoder: TextEncoderLayout | None = None
    encoder: AutoencoderLayout | None = None
    decoder: AutoencoderLayout | None = None
    latents: LatentsRecord | None = None


def renamed(weights: Mapping[str, Tensor], prefix: str, network: str) -> dict[str, Tensor]:
    """Weights that an objective calls `<prefix>...` under the name that the record has for their network."""
    return {network + name.removeprefix(prefix): weight for name, weight in weights.items()}


def save_with_record(path: Path, tensors: Mapping[str, Tensor], record: StageRecord) -> None:
    """Write a stage's tensors and its record in one commit. Raises as `save_tensors` does."""
    save_tensors(path, tensors, {_KEY: record.model_dump_json()})


def has_record(path: Path) -> bool:
    """Whether there is a file at `path` that says what it is."""
    return path.exists() and _KEY in load_metadata(path)


def read_record(path: Path) -> StageRecord:
    """The record in a stage's file.

    Raises `ArtifactError` if the file is missing or damaged, or has no record, as those that versions before wrote.
    """
    metadata = load_metadata(path)
    if _KEY not in metadata:
        raise ArtifactError(
            f"'{path}' doesn't say which networks it holds and how they were trained: expected a stage's record, found "
            f"a file of an older version; run the stage once more with `sfmobile train all`, `train stage` or `train "
            f"evolve` and --run {path.parent.parent}, which takes a finished stage up at its last step and writes it."
        )
    where, what, mend = f"'{path}'", "a stage's record", "run the stage again"
    return validated(StageRecord, parse_json(metadata[_KEY], where, what, mend), where, what, mend)
