"""Laying LoRAs, embeddings and another autoencoder over an opened checkpoint, and putting ControlNets beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sfmobile.bundle.overlays import AutoencoderRecord, ControlNetRecord, OverlayRecord, PreviewRecord
from sfmobile.bundle.pipeline import PREVIEW, UNET, in_running_order
from sfmobile.checkpoint.config import FORCE_UPCAST, autoencoder_layout, autoencoder_parts
from sfmobile.checkpoint.controlnet import open_controlnet
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.overlays.embedding import read_embedding
from sfmobile.checkpoint.overlays.laid import Laid, TokenTable
from sfmobile.checkpoint.overlays.lora import Lora
from sfmobile.checkpoint.overlays.vae import read_autoencoder
from sfmobile.checkpoint.source import Source
from sfmobile.checkpoint.tokenizer import with_tokens
from sfmobile.checkpoint.weights import FOLDERS, PartName
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.layout import AutoencoderLayout, TinyAutoencoderLayout


def lay_over(checkpoint: Checkpoint, source: Source) -> Checkpoint:
    """`checkpoint` with all that `source` lays over it.

    Raises `ArtifactError` naming the file that is missing, damaged, not what was recorded, or for another model.
    """
    others: tuple[OverlayRecord, ...] = ()
    if source.vae is not None:
        checkpoint, record = _with_autoencoder(checkpoint, source)
        others = (record,)
    if source.controls:
        checkpoint, records = _with_controls(checkpoint, source)
        others += records
    if source.preview is not None:
        checkpoint, preview = _with_preview(checkpoint, source)
        others = (*others, preview)
    if not (source.loras or source.embeddings or others):
        return replace(checkpoint, source=source)
    encoders = {text.component: text.layout.hidden for text in checkpoint.texts}
    embeddings = []
    texts = checkpoint.texts
    for wanted in source.embeddings:
        one = read_embedding(wanted.path, encoders, wanted.token)
        _check_hash(wanted.path, one.digest, wanted.sha256)
        texts = tuple(
            replace(text, tokenizer=with_tokens(text.tokenizer, text.tokenizer_dir, one.tokens, wanted.path))
            for text in texts
        )
        embeddings.append(one)
    tables = {}
    if embeddings:
        tables = {
            text.component: TokenTable((text.layout.vocabulary, text.layout.hidden), text.tokenizer.vocabulary)
            for text in checkpoint.texts
        }
        texts = tuple(
            replace(text, layout=replace(text.layout, vocabulary=text.tokenizer.vocabulary)) for text in texts
        )
    loras = []
    for choice in source.loras:
        lora = Lora(choice.path, choice.scale)
        _check_hash(choice.path, lora.digest, choice.sha256)
        loras.append(lora)
    parts: tuple[PartName, ...] = (*(text.component for text in checkpoint.texts), UNET)
    shapes = {part: checkpoint.held_shapes(part) for part in parts} if loras else {}
    laid = Laid(
        loras=loras,
        changes=[lora.changes(shapes) for lora in loras],
        embeddings=embeddings,
        tables=tables,
        others=others,
    )
    return replace(
        checkpoint,
        source=source,
        texts=texts,
        laid=laid,
        _shapes={key: value for key, value in checkpoint._shapes.items() if key not in tables},
        _digests={},
    )


def _with_autoencoder(checkpoint: Checkpoint, source: Source) -> tuple[Checkpoint, AutoencoderRecord]:
    assert source.vae is not None
    other = read_autoencoder(source.vae)
    _check_hash(source.vae, other.digest, source.vae_sha256)
    layout = autoencoder_layout(other.config, other.file)
    _check_channels(checkpoint, other.file, layout.latent_channels)
    own = checkpoint.autoencoder_layout
    if (
        FORCE_UPCAST not in other.config
        and isinstance(layout, AutoencoderLayout)
        and isinstance(own, AutoencoderLayout)
    ):
        # A single file says neither how latents are scaled nor whether it bears float16: taken as the checkpoint's own,
        # which of the second is exact either way.
        layout = replace(layout, activation_scale=own.activation_scale)
        if other.file == other.path:
            layout = replace(layout, scaling_factor=own.scaling_factor)
    halves = autoencoder_parts(other.config, other.file)
    networks = (part for part in checkpoint.parts if FOLDERS.get(part) != "vae")
    parts: tuple[PartName, ...] = (*networks, *(part for part in ("decoder", "encoder") if part in halves))
    record = AutoencoderRecord(path=str(source.vae), sha256=other.digest)
    return (
        replace(
            checkpoint,
            autoencoder_layout=layout,
            parts=parts,
            _files={**checkpoint._files, "vae": other.weights},
            _shapes={part: shapes for part, shapes in checkpoint._shapes.items() if FOLDERS.get(part) != "vae"},
            _digests={},
        ),
        record,
    )


def _check_channels(checkpoint: Checkpoint, file: Path, channels: int) -> None:
    """Raise `ArtifactError` for an autoencoder of other latents than the UNet's."""
    wanted = checkpoint.unet_layout.out_channels
    if channels != wanted:
        raise ArtifactError(
            f"{file}: its latents have {channels} channels and the UNet's {wanted}; it is for another model."
        )


def _with_controls(checkpoint: Checkpoint, source: Source) -> tuple[Checkpoint, tuple[OverlayRecord, ...]]:
    if checkpoint.unet_layout.added_embedding_dim is not None:
        raise UsageError(
            f"'{checkpoint.root}' is a Stable Diffusion XL, beside which sfmobile puts no ControlNet yet; leave "
            "--control out, or take a Stable Diffusion 1 or 2."
        )
    opened = []
    for wanted in source.controls:
        one = open_controlnet(
            wanted.name, wanted.path, checkpoint.unet_layout, checkpoint.autoencoder_layout.downsampling
        )
        _check_hash(wanted.path, one.digest, wanted.sha256)
        opened.append(one)
    names = [one.component for one in opened]
    if len(set(names)) != len(names):
        given = ", ".join(one.name for one in source.controls)
        raise UsageError(f"Two ControlNets have one name ({given}); rename one.")
    records = tuple(ControlNetRecord(component=one.component, path=str(one.path), sha256=one.digest) for one in opened)
    return checkpoint.with_controls(opened), records


def _with_preview(checkpoint: Checkpoint, source: Source) -> tuple[Checkpoint, PreviewRecord]:
    assert source.preview is not None
    other = read_autoencoder(source.preview)
    _check_hash(source.preview, other.digest, source.preview_sha256)
    layout = autoencoder_layout(other.config, other.file)
    if not isinstance(layout, TinyAutoencoderLayout):
        raise ArtifactError(
            f"{other.file}: a preview is decoded by an AutoencoderTiny (TAESD), and this is a large autoencoder; give "
            "that with --vae, or leave --preview out: every bundle previews with its own decoder too."
        )
    _check_channels(checkpoint, other.file, layout.latent_channels)
    if layout.scaling_factor != 1:
        raise ArtifactError(
            f"{other.file}: 'scaling_factor' is {layout.scaling_factor:g}; expected 1: a preview decodes latents as "
            "the loop has them."
        )
    components = in_running_order((*checkpoint.description.components, PREVIEW))
    return (
        replace(
            checkpoint,
            preview_layout=layout,
            description=replace(checkpoint.description, components=components),
            parts=(*checkpoint.parts, PREVIEW),
            _files={**checkpoint._files, FOLDERS[PREVIEW]: other.weights},
            _shapes=dict(checkpoint._shapes),
            _digests={},
        ),
        PreviewRecord(path=str(source.preview), sha256=other.digest),
    )


def _check_hash(path: Path, found: str, recorded: str | None) -> None:
    if recorded is not None and found != recorded:
        raise ArtifactError(
            f"'{path}' is not the file that the bundle was exported with: it has SHA-256 {found[:12]}…, expected "
            f"{recorded[:12]}…; put that one back, or export again."
        )
