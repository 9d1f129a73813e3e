"""What was laid over a checkpoint or put beside it at export, with hashes: found again when it is read again."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from sfmobile.files import StrictModel

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LoraRecord(StrictModel):
    """A LoRA that was merged into the weights, at a scale."""

    kind: Literal["lora"] = "lora"
    path: str
    sha256: Sha256
    scale: float = Field(allow_inf_nan=False)


class EmbeddingRecord(StrictModel):
    """Textual inversion: vectors in the token table, one for each of `tokens`."""

    kind: Literal["embedding"] = "embedding"
    path: str
    sha256: Sha256
    tokens: tuple[str, ...]


class AutoencoderRecord(StrictModel):
    """An autoencoder in place of the checkpoint's own: a directory's or a file's. sha256: of its weights and config."""

    kind: Literal["vae"] = "vae"
    path: str
    sha256: Sha256


class ControlNetRecord(StrictModel):
    """A ControlNet that stands beside the checkpoint, a directory's.

    component: what the bundle calls it. sha256: of its weights and config.
    """

    kind: Literal["controlnet"] = "controlnet"
    component: str
    path: str
    sha256: Sha256


class PreviewRecord(StrictModel):
    """The tiny autoencoder whose decoder a bundle holds for previews. sha256: of its weights and config."""

    kind: Literal["preview"] = "preview"
    path: str
    sha256: Sha256


OverlayRecord: TypeAlias = Annotated[
    LoraRecord | EmbeddingRecord | AutoencoderRecord | ControlNetRecord | PreviewRecord, Field(discriminator="kind")
]
