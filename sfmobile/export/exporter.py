"""A checkpoint to a bundle: one loop over components, each reused if it is whole and current, else built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import SAFETY_FOLDER, Bundle
from sfmobile.bundle.manifest import (
    SCHEMA_VERSION,
    ComponentRecord,
    GuidanceRecord,
    LatentsRecord,
    Manifest,
    SourceRecord,
    TokenizerRecord,
)
from sfmobile.bundle.store import BundleWriter, require_disk
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.source import option_of
from sfmobile.checkpoint.text import TextPart
from sfmobile.checkpoint.tokenizer import MERGES_FILE, VOCAB_FILE, copy_tokenizer
from sfmobile.errors import UsageError
from sfmobile.export.build import ComponentBuild
from sfmobile.export.component import Setting, chosen_components, component_specs, fitted, setting_for, with_wanted
from sfmobile.export.golden import GoldenRecorder, golden_record
from sfmobile.export.options import ExportOptions
from sfmobile.export.phases import ExportObserver
from sfmobile.export.plan import plan_export
from sfmobile.files import sha256_of_value
from sfmobile.version import __version__


def export_bundle(
    checkpoint: Checkpoint,
    root: Path,
    options: ExportOptions,
    observer: ExportObserver | None = None,
    golden: GoldenRecorder | None = None,
    source_id: str | None = None,
    golden_steps: int | None = None,
) -> Bundle:
    """Export `checkpoint` to the bundle directory `root` and return the bundle.

    `source_id` is what the manifest says the checkpoint was: where it was opened from without it.
    Components not asked for are kept from a bundle at `root` if they belong to the same checkpoint and shapes.
    `golden` records the reference vectors, given the bundle without them; it is called only if the bundle can draw
    and the vectors of a bundle at `root` no longer fit, or haven't the `golden_steps` that are asked for.
    Raises `UsageError` for options that don't fit, `ArtifactError` for a damaged checkpoint, `UnavailableError` for
    too little disk or another export into `root`. Whatever happens, `root` is the old bundle or the new one, whole.
    """
    observer = observer or ExportObserver()
    if options.format == "coreai":
        from sfmobile.runtime.coreai import library

        library.require()
    options = fitted(options, checkpoint)
    checkpoint = checkpoint.with_defaults(options.default_steps, options.default_guidance)
    checkpoint = checkpoint.with_clip_skip(options.clip_skip).with_prompt_chunks(options.prompt_chunks)
    require_disk(root, plan_export(checkpoint, options).disk_bytes)
    with BundleWriter(root) as writer:
        checkpoint = with_wanted(checkpoint, options, writer.replaced())
        setting = setting_for(checkpoint, options)
        chosen = chosen_components(checkpoint, options)
        specs = component_specs(checkpoint)
        builds = {name: ComponentBuild(spec, setting, options, observer) for name, spec in specs.items()}
        components: dict[ComponentName, ComponentRecord] = {}
        kept = _kept_components(writer, builds, setting, options, chosen)
        for name in specs:
            if name in chosen:
                components[name] = builds[name].complete(writer)
            elif name in kept:
                writer.adopt(name, kept[name])
                components[name] = kept[name]
        manifest = _manifest(writer, setting, options, components, source_id or checkpoint.source.id)
        record = golden_record(writer, manifest, golden, observer, golden_steps)
        return writer.commit(manifest.model_copy(update={"golden": record}))


def _kept_components(
    writer: BundleWriter,
    builds: Mapping[ComponentName, ComponentBuild],
    setting: Setting,
    options: ExportOptions,
    chosen: Sequence[ComponentName],
) -> dict[ComponentName, ComponentRecord]:
    """Components of the bundle at the target that this export doesn't rebuild.

    Raises `UsageError` if they would not fit the new ones.
    """
    # An export that names no components says all that the bundle is to hold.
    manifest = None if options.components is None else writer.replaced()
    others = {} if manifest is None else dict(manifest.components)
    for name in chosen:
        others.pop(name, None)
    if manifest is None or not others:
        return {}
    expected = _latents(setting)
    names = ", ".join(others)
    for what, found, wanted in (
        ("latents", f"{manifest.latents.height}x{manifest.latents.width}", f"{expected.height}x{expected.width}"),
        ("prompt chunks", str(manifest.pipeline.text.chunks), str(options.prompt_chunks)),
        ("target", manifest.target, options.target),
        ("format", next(iter(others.values())).format, options.format),
    ):
        if found != wanted:
            raise UsageError(
                f"'{writer.target}' holds {names} for {what} {found} but this export is for {wanted}; export all "
                "components, or choose another directory."
            )
    for name, record in others.items():
        if name not in builds or record.source_sha256 != builds[name].source_sha256():
            raise UsageError(
                f"'{writer.target}' holds {name} of {_other_source(manifest.source, setting.checkpoint)}, or choose "
                "another directory."
            )
    return others


def _other_source(recorded: SourceRecord, checkpoint: Checkpoint) -> str:
    """What a component that stays is of, and what lets it stay: another checkpoint, or other files laid over one."""
    before, now = ([option_of(one) for one in records] for records in (recorded.overlays, checkpoint.laid.records))
    missing, added = ([one for one in some if one not in others] for some, others in ((before, now), (now, before)))
    if missing:
        return f"an export with {' '.join(missing)}; give that again, or export all components"
    if added:
        return f"an export without {' '.join(added)}; leave that out, or export all components"
    return f"another checkpoint ('{recorded.id}'); export all components"


def _latents(setting: Setting) -> LatentsRecord:
    height, width = setting.latent_size
    layout = setting.checkpoint.autoencoder_layout
    return LatentsRecord(
        channels=layout.latent_channels,
        height=height,
        width=width,
        pixels_per_latent=layout.downsampling,
        scaling_factor=layout.scaling_factor,
    )


def _manifest(
    writer: BundleWriter,
    setting: Setting,
    options: ExportOptions,
    components: Mapping[ComponentName, ComponentRecord],
    source_id: str,
) -> Manifest:
    """The manifest without golden vectors; writes the tokenizers' folders."""
    checkpoint = setting.checkpoint
    safety = None
    if checkpoint.safety is not None and checkpoint.pipeline.safety_checker in components:
        concepts = checkpoint.safety.concepts()

        def write(folder: Path) -> None:
            for name, rows in concepts.items():
                np.save(folder / name, rows, allow_pickle=False)

        safety = checkpoint.safety.record(writer.folder(SAFETY_FOLDER, write))
    # A UNet that is kept says its own batch.
    batch = options.guidance_batch
    if (unet := components.get(checkpoint.pipeline.unet)) is not None:
        batch = 2 if unet.inputs[0].shape[0] == 2 else 1
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=checkpoint.name,
        source=SourceRecord(
            id=source_id,
            sha256=sha256_of_value({name: record.source_sha256 for name, record in components.items()}),
            licence=checkpoint.licence if options.licence is None else options.licence,
            revision=checkpoint.source.revision,
            tokenizer=None if checkpoint.source.tokenizer is None else str(checkpoint.source.tokenizer),
            prediction=checkpoint.source.prediction,
            ema=checkpoint.source.ema,
            overlays=checkpoint.laid.records,
        ),
        target=options.target,
        options=options.record(setting.latent_size),
        tools={"sfmobile": __version__, **{name: version(name) for name in ("coremltools", "torch", "numpy")}},
        pipeline=checkpoint.pipeline,
        components=dict(components),
        sampler=checkpoint.sampler,
        latents=_latents(setting),
        guidance=GuidanceRecord(batch=batch, default_scale=checkpoint.guidance_scale),
        time_embedding=checkpoint.time_embedding,
        safety=safety,
        tokenizers={text.tokenizer_name: _tokenizer(writer, text) for text in checkpoint.texts},
    )


def _tokenizer(writer: BundleWriter, text: TextPart) -> TokenizerRecord:
    """The record of a tokenizer, whose folder it writes."""
    name, constants = text.tokenizer_name, text.tokenizer
    return TokenizerRecord(
        vocab=f"{name}/{VOCAB_FILE}",
        merges=f"{name}/{MERGES_FILE}",
        max_length=constants.max_length,
        bos_token_id=constants.bos_token_id,
        eos_token_id=constants.eos_token_id,
        pad_token_id=constants.pad_token_id,
        added_tokens=constants.added_tokens,
        exact_tokens=constants.exact_tokens,
        files=writer.folder(name, lambda folder: copy_tokenizer(text.tokenizer_dir, folder, constants)),
    )
