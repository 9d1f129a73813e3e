"""Sources: a local directory, or a Hugging Face Hub id whose safetensors are fetched through `huggingface_hub`."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sfmobile.checkpoint.directory import MODEL_INDEX, Checkpoint
from sfmobile.checkpoint.foreign import no_pipeline
from sfmobile.checkpoint.laying import lay_over
from sfmobile.checkpoint.overlays.vae import read_autoencoder
from sfmobile.checkpoint.source import (
    ControlNetChoice,
    EmbeddingChoice,
    LoraChoice,
    Prediction,
    Source,
    absolute,
    expanded,
)
from sfmobile.checkpoint.weights import FOLDERS, OPTIONAL_STEMS, PARTS, STEMS, VARIANTS
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.models import find_checkpoint

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Half precision first: a package's floats are float16 whatever the source's are.
HUB_VARIANTS = (".fp16", "", ".bf16")
CONNECTION_SECONDS = 15.0
_SMALL_FILES = (
    MODEL_INDEX,
    "README.md",
    "LICENSE*",
    "tokenizer*/*",
    "scheduler/*.json",
    "*/config.json",
    "feature_extractor/*.json",
)


def open_checkpoint(
    source: Checkpoint | Source | Path | str,
    revision: str | None = None,
    *,
    lora: Sequence[LoraChoice | Path | str] = (),
    embedding: Sequence[EmbeddingChoice | Path | str] = (),
    vae: Path | str | None = None,
    preview: Path | str | None = None,
    tokenizer: Path | str | None = None,
    prediction: Prediction | None = None,
    control: Sequence[ControlNetChoice | str] = (),
    ema: bool = False,
    full_precision: bool = False,
    parts: Sequence[str] | None = None,
    extras: Sequence[str] = (),
) -> Checkpoint:
    """Open `source`: a directory or file if one is there, else a Hub id such as `stabilityai/sd-turbo`.

    An opened checkpoint is returned as it is. revision: of a model on the Hub, its newest without it. lora: files
    merged into the weights ("detail.safetensors:0.8"). embedding: files of textual inversion ("cat.safetensors:<cat>").
    vae: a directory or file of another autoencoder. preview: of a tiny one (TAESD), whose decoder shows what steps
    predict. tokenizer: a directory, for a single file whose vocabulary isn't CLIP's. prediction: what a single file's
    UNet predicts, where its keys don't say. control: directories of ControlNets with their names
    ("canny=path/to/controlnet"). ema: a single file's averaged weights. full_precision: of two precisions on the Hub,
    the one that ONNX files of float32 are made from. parts: whose weights are read, so that a pickle in another's
    folder is no obstacle. extras: optional components that are to be fetched from the Hub too.

    Raises `ArtifactError` if it is neither or something is damaged or for another model, `UnavailableError` if the Hub
    can't be reached.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, Source):
        # A path is never the id of a model on the Hub.
        named = source.absolute() if isinstance(source, Path) and len(source.parts) > 1 else source
        source = Source(
            str(named),
            revision,
            tuple(one if isinstance(one, LoraChoice) else LoraChoice.parse(str(one)) for one in lora),
            tuple(one if isinstance(one, EmbeddingChoice) else EmbeddingChoice.parse(str(one)) for one in embedding),
            vae=None if vae is None else absolute(vae),
            preview=None if preview is None else absolute(preview),
            tokenizer=None if tokenizer is None else absolute(tokenizer),
            prediction=prediction,
            controls=tuple(
                one if isinstance(one, ControlNetChoice) else ControlNetChoice.parse(str(one)) for one in control
            ),
            ema=ema,
            full_precision=full_precision,
            parts=None if parts is None else tuple(parts),
            extras=(*extras, *(parts or ())),
        )
    path = expanded(source.id)
    if _is_local(source.id):
        # A built-in model keeps its name; everything else is found again from another directory.
        source = replace(source, id=str(path.absolute()) if path.exists() else source.id)
        if path.is_file():
            other = None if source.vae is None else read_autoencoder(source.vae)
            instead = None if other is None else (other.config, other.weights)
            opened = Checkpoint.open_file(path, source.tokenizer, source.prediction, instead, ema=source.ema)
            return lay_over(opened, source)
        for option, given in (("tokenizer", source.tokenizer), ("prediction", source.prediction), ("ema", source.ema)):
            if given:
                raise UsageError(f"--{option} is for a single file, and '{source.id}' is none; leave it out.")
        return lay_over(Checkpoint.open(path, parts=source.parts), source)
    snapshot = _cached(source.id, source.revision) if _COMMIT.fullmatch(source.revision or "") else None
    snapshot = snapshot or fetch(source.id, source.revision, source.parts, source.full_precision, source.extras)
    commit = snapshot.name if _COMMIT.fullmatch(snapshot.name) else source.revision
    return lay_over(Checkpoint.open(snapshot, name=source.id, parts=source.parts), replace(source, revision=commit))


def is_here(source: Source) -> bool:
    """Whether a source can be opened without the Hub: it is a path, built in, or downloaded already."""
    if _is_local(source.id):
        return find_checkpoint(Path(source.id)).exists()
    return _cached(source.id, source.revision) is not None


def _is_local(name: str) -> bool:
    return expanded(name).exists() or not _HUB_ID.fullmatch(name)


def fetch(
    repo_id: str,
    revision: str | None = None,
    parts: Sequence[str] | None = None,
    full_precision: bool = False,
    extras: Sequence[str] = (),
) -> Path:
    """Download a checkpoint's configs, tokenizer and safetensors into the Hub's cache; returns the directory.

    The configs are read before any weight is fetched. Pickles are never fetched, and of two precisions only half,
    unless `full_precision` is asked for: packages hold no more.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        # Not `list_repo_files`, which retries for 23 seconds where there is no network (huggingface_hub 2.4).
        info = HfApi().model_info(repo_id, revision=revision, timeout=CONNECTION_SECONDS)
        names = [file.rfilename for file in info.siblings or ()]
        # What another commit adds meanwhile isn't mixed in.
        commit = info.sha or revision
        if MODEL_INDEX not in names:
            raise ArtifactError(no_pipeline(f"'{repo_id}'", names))
        configs = Path(snapshot_download(repo_id, revision=commit, allow_patterns=[*_SMALL_FILES]))
        # A model that can't be exported is refused before gigabytes are fetched.
        held = Checkpoint.open(configs, name=repo_id, files={}).parts
        weights = weight_patterns(repo_id, names, held if parts is None else parts, full_precision, extras)
        return Path(snapshot_download(repo_id, revision=commit, allow_patterns=[*_SMALL_FILES, *weights]))
    except GatedRepoError as error:
        raise UnavailableError(
            f"'{repo_id}' asks for an agreement before it is downloaded; accept it on its page and log in with "
            "'hf auth login'."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ArtifactError(
            f"'{repo_id}' is neither a directory here nor a model on the Hugging Face Hub; check the name."
        ) from error
    except _connection_errors() as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UnavailableError(f"The disk is full while downloading '{repo_id}'; free some space.") from error
        cached = _cached(repo_id, revision)
        if cached is not None:
            return cached
        raise UnavailableError(
            f"'{repo_id}' is no directory here, and the Hugging Face Hub can't be reached ({type(error).__name__}); go "
            "online or give the path of a downloaded checkpoint."
        ) from error


def weight_patterns(
    repo_id: str,
    names: list[str],
    parts: Sequence[str] | None = None,
    full_precision: bool = False,
    extras: Sequence[str] = (),
) -> list[str]:
    """The weight files to fetch out of a repository's file `names`; raises `ArtifactError` if it has only pickles.

    parts: whose, those of a pipeline of one text encoder without it.
    """
    patterns: list[str] = []
    wanted = {folder for part, folder in FOLDERS.items() if part in (PARTS if parts is None else parts)}
    others = {FOLDERS[part]: OPTIONAL_STEMS[part] for part in OPTIONAL_STEMS if part in extras}
    for folder, stem in {**STEMS, **others}.items():
        if folder not in wanted | set(others):
            continue
        for variant in VARIANTS if full_precision else HUB_VARIANTS:
            # Whole file, shards or index; not "non_ema" and other extras.
            ending = re.escape(variant)
            form = re.compile(
                rf"{folder}/{stem}(\.safetensors\.index{ending}\.json|{ending}\.safetensors\.index\.json|"
                rf"{ending}(-\d+-of-\d+)?\.safetensors|(-\d+-of-\d+){ending}\.safetensors)"
            )
            chosen = [name for name in names if form.fullmatch(name)]
            if any(name.endswith(".safetensors") for name in chosen):
                patterns += chosen
                break
        else:
            raise ArtifactError(
                f"'{repo_id}' has no {folder}/{stem}.safetensors and no shards of it; sfmobile doesn't read pickles."
            )
    return patterns


def _connection_errors() -> tuple[type[Exception], ...]:
    """What a failed connection raises: OSErrors, or errors of the HTTP library that huggingface_hub builds on.

    That library has changed with its major versions (requests, httpx, httpx2), but the Hub's own error always derives
    from the library's base class.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    library = tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (OSError, LocalEntryNotFoundError, *library)


def _cached(repo_id: str, revision: str | None) -> Path | None:
    """The directory of an earlier download, if there is one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
