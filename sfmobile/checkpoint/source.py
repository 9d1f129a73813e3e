"""Where a checkpoint is and what is laid over it: enough to open it again, later or in another process."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sfmobile.errors import UsageError

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import Manifest
    from sfmobile.bundle.overlays import OverlayRecord

Prediction = Literal["epsilon", "v_prediction"]
# What the component of a ControlNet is called: this and the name that it is given.
CONTROL_PREFIX = "control_"


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA file and the scale that its changes are merged at. sha256: what it must be, where that is recorded."""

    path: Path
    scale: float = 1.0
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> LoraChoice:
        """`FILE[:scale]`. Raises `UsageError` for a scale that is no finite number."""
        file, scale = file_and_scale(text, f"--lora {text}")
        return cls(absolute(file), scale)


@dataclass(frozen=True)
class EmbeddingChoice:
    """A file of textual inversion, and the token that stands for it; None, the file's own."""

    path: Path
    token: str | None = None
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> EmbeddingChoice:
        """`FILE[:token]`."""
        file, colon, token = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(absolute(text))
        if not token.strip():
            raise UsageError(f"--embedding {text}: the token is empty; expected FILE or FILE:TOKEN, such as <cat>.")
        return cls(absolute(file), token)


@dataclass(frozen=True)
class ControlNetChoice:
    """A ControlNet's directory and the name that a bundle gives it."""

    name: str
    path: Path
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> ControlNetChoice:
        """`NAME=DIR`. Raises `UsageError` for another form."""
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--control {text} names no ControlNet; expected NAME=DIR, such as canny=path/to/it.")
        return cls(name, absolute(path))


@dataclass(frozen=True)
class Source:
    """A checkpoint to open.

    id: a directory or a file, a Hub id, or the name of the built-in model. revision: of a model on the Hub. loras,
    embeddings, vae, preview (directories or files): what is laid over it. tokenizer, prediction: of a single file,
    which holds neither; ema: its averaged weights. controls: ControlNets beside it. full_precision: of two on
    the Hub, not half precision. parts: whose weights are read, all without it; extras: of optional ones beside them.
    """

    id: str
    revision: str | None = None
    loras: tuple[LoraChoice, ...] = ()
    embeddings: tuple[EmbeddingChoice, ...] = ()
    vae: Path | None = None
    vae_sha256: str | None = None
    preview: Path | None = None
    preview_sha256: str | None = None
    tokenizer: Path | None = None
    prediction: Prediction | None = None
    controls: tuple[ControlNetChoice, ...] = ()
    ema: bool = False
    full_precision: bool = False
    parts: tuple[str, ...] | None = None
    extras: tuple[str, ...] = ()

    @classmethod
    def recorded(cls, manifest: Manifest, given: Path | str | None = None) -> Source:
        """The source of a bundle, whose base is at `given` where it isn't where the manifest says.

        Files laid over it that aren't where the manifest says are taken from inside the base or beside it.
        """
        record = manifest.source
        # What has moved is looked for by its name beside the checkpoint; its checksum says whether it is the same.
        near = Path(given if given is not None else record.id)

        def found(path: str) -> Path:
            recorded = Path(path)
            beside = (near / recorded.name, near.parent / recorded.name)
            return next((one for one in (recorded, *beside) if one.exists()), recorded)

        return cls(
            id=str(given if given is not None else record.id),
            revision=record.revision if given is None else None,
            loras=tuple(
                LoraChoice(found(one.path), one.scale, one.sha256) for one in record.overlays if one.kind == "lora"
            ),
            embeddings=tuple(
                EmbeddingChoice(found(one.path), one.tokens[0], one.sha256)
                for one in record.overlays
                if one.kind == "embedding"
            ),
            vae=next((found(one.path) for one in record.overlays if one.kind == "vae"), None),
            vae_sha256=next((one.sha256 for one in record.overlays if one.kind == "vae"), None),
            preview=next((found(one.path) for one in record.overlays if one.kind == "preview"), None),
            preview_sha256=next((one.sha256 for one in record.overlays if one.kind == "preview"), None),
            tokenizer=None if record.tokenizer is None else found(record.tokenizer),
            prediction=record.prediction,
            controls=tuple(
                ControlNetChoice(one.component.removeprefix(CONTROL_PREFIX), found(one.path), one.sha256)
                for one in record.overlays
                if one.kind == "controlnet"
            ),
            ema=record.ema,
            parts=tuple(manifest.components),
            extras=tuple(manifest.components),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """What must be there beside the checkpoint itself."""
        others = [path for path in (self.vae, self.preview, self.tokenizer) if path is not None]
        return (
            *(lora.path for lora in self.loras),
            *(embedding.path for embedding in self.embeddings),
            *(control.path for control in self.controls),
            *others,
        )


def file_and_scale(text: str, option: str) -> tuple[str, float]:
    """The parts of `FILE[:scale]`, 1 without one. Raises `UsageError`, which begins with `option` as it was given, for
    a scale that is no finite number."""
    file, colon, end = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        scale = float(end)
    except ValueError:
        raise UsageError(f"{option}: '{end}' is no scale; expected FILE or FILE:SCALE, such as 0.8.") from None
    if not math.isfinite(scale):
        raise UsageError(f"{option}: the scale is {end}; expected a finite number such as 0.8.")
    return file, scale


def expanded(path: Path | str) -> Path:
    """`path` with `~` as the home it means. Raises `UsageError` for that of a user who doesn't exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"'{path}' names the home of a user who doesn't exist here.") from error


def absolute(path: Path | str) -> Path:
    """`path` as it is found from any directory."""
    return expanded(path).absolute()


def option_of(record: OverlayRecord) -> str:
    """The option of the command line that lays it over a checkpoint again."""
    path = shlex.quote(record.path)
    if record.kind == "controlnet":
        return f"--control {record.component.removeprefix(CONTROL_PREFIX)}={path}"
    if record.kind == "lora":
        return f"--lora {path}:{record.scale:g}"
    if record.kind == "embedding":
        return f"--embedding {path}:{shlex.quote(record.tokens[0])}"
    return f"--{record.kind} {path}"
