"""A checkpoint to a bundle: one loop over components, each reused if it is whole and current, else built."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sfmobile.bundle.digest import digest_package
from sfmobile.bundle.directory import GOLDEN_FOLDER, TOKENIZER_FOLDER, Bundle
from sfmobile.bundle.manifest import (
    COMPONENTS,
    SCHEMA_VERSION,
    ChunkRecord,
    ComponentName,
    ComponentRecord,
    CompressionRecord,
    FunctionRecord,
    GoldenRecord,
    GuidanceRecord,
    LatentsRecord,
    Manifest,
    SourceRecord,
    TensorRecord,
    TokenizerRecord,
)
from sfmobile.bundle.store import BundleWriter, remove, require_disk
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.tokenizer import MERGES_FILE, VOCAB_FILE, copy_tokenizer, read_tokenizer
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe, compressible_layers
from sfmobile.errors import UsageError
from sfmobile.export.component import SPECS, ComponentSpec, Setting, function_settings, setting_for
from sfmobile.export.options import ExportOptions
from sfmobile.export.package import PackageMetadata
from sfmobile.export.plan import plan_export
from sfmobile.files import sha256_of_value
from sfmobile.mlpackage.names import layer_constant
from sfmobile.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from sfmobile.sampling.golden import GoldenRun

Phase = Literal["hash", "load", "trace", "convert", "palettize", "write", "cut", "merge", "check", "checksum", "golden"]
SUFFIXES = {"mlprogram": ".mlpackage", "onnx": ".onnx"}


class ExportObserver:
    """Told what the exporter does; the base class ignores it all."""

    def phase(self, component: ComponentName | None, phase: Phase, total: int | None = None) -> None:
        """A phase begins; `total` units of it will be reported by `advance`, or None if it can't be told."""

    def advance(self, units: int) -> None:
        """So many units of the current phase are done."""

    def finished(self, component: ComponentName, record: ComponentRecord, seconds: float, reused: bool) -> None:
        """A component is complete, built or reused."""


def export_bundle(
    checkpoint: Checkpoint,
    root: Path,
    options: ExportOptions,
    observer: ExportObserver | None = None,
    golden: Callable[[Bundle], GoldenRun] | None = None,
    source_id: str | None = None,
) -> Bundle:
    """Export `checkpoint` to the bundle directory `root` and return the bundle.

    `source_id` is what the manifest says the checkpoint was: a directory (by default its path) or a Hub id.
    Components not asked for are kept from a bundle at `root` if they belong to the same checkpoint and shapes.
    `golden` records the reference vectors, given the bundle without them; it is called only if all three components
    are there and the vectors of a bundle at `root` no longer fit.
    Raises `UsageError` for options that don't fit, `ArtifactError` for a damaged checkpoint, `UnavailableError` for
    too little disk or another export into `root`. Whatever happens, `root` is the old bundle or the new one, whole.
    """
    observer = observer or ExportObserver()
    setting = setting_for(checkpoint, options)
    plan = plan_export(checkpoint, options)
    require_disk(root, plan.disk_bytes)
    with BundleWriter(root) as writer:
        components: dict[ComponentName, ComponentRecord] = {}
        kept = _kept_components(writer, checkpoint, options, setting, observer)
        for name in COMPONENTS:
            if name in options.components:
                components[name] = _component(writer, checkpoint, SPECS[name], options, setting, observer)
            elif name in kept:
                writer.adopt(name, kept[name])
                components[name] = kept[name]
        manifest = _manifest(writer, checkpoint, options, setting, components, source_id or str(checkpoint.root))
        record = _golden(writer, manifest, golden, observer)
        return writer.commit(manifest.model_copy(update={"golden": record}))


def _component(
    writer: BundleWriter,
    checkpoint: Checkpoint,
    spec: ComponentSpec,
    options: ExportOptions,
    setting: Setting,
    observer: ExportObserver,
) -> ComponentRecord:
    """The component whole in the staging directory: reused, or built and recorded."""
    start = time.perf_counter()
    source_sha256 = _source_sha256(checkpoint, spec.name, observer)
    options_sha256 = options.digest(spec.name, setting.latent_size)
    record = None if options.force else writer.reusable(spec.name, source_sha256, options_sha256)
    reused = record is not None
    if record is None:
        in_chunks = spec.name == "unet" and options.chunks > 1
        package = spec.package + ("" if in_chunks else SUFFIXES[options.format])
        with writer.component(spec.name, package) as path:
            chunks = _build(checkpoint, spec, options, setting, path, observer)
        observer.phase(spec.name, "checksum")
        files = digest_package(writer.staging, package)
        record = ComponentRecord(
            format=options.format,
            package=package,
            inputs=_io(spec.inputs(setting), options),
            outputs=_io(spec.outputs(setting), options),
            compute_precision=options.precision,
            attention=options.attention,
            compression=_compression_record(spec.name, options, _layers(checkpoint, spec.name)),
            parameters=checkpoint.parameters(spec.name),
            bytes=sum(file.bytes for file in files.values()),
            source_sha256=source_sha256,
            options_sha256=options_sha256,
            files=files,
            chunks=chunks,
            functions=_function_records(spec, options, setting),
        )
        writer.finish(spec.name, record)
        gc.collect()
    observer.finished(spec.name, record, time.perf_counter() - start, reused)
    return record


def _source_sha256(checkpoint: Checkpoint, name: ComponentName, observer: ExportObserver) -> str:
    total = sum(weight.nbytes for weight in checkpoint.state_dict(name).values())
    observer.phase(name, "hash", total)
    return checkpoint.sha256(name, observer.advance)


def _build(
    checkpoint: Checkpoint,
    spec: ComponentSpec,
    options: ExportOptions,
    setting: Setting,
    path: Path,
    observer: ExportObserver,
) -> tuple[ChunkRecord, ...]:
    """Write the package `path` (and, beside it while that lasts, scratch files); returns its chunks, if it has any."""
    from sfmobile.export.lowering import TORCH_DTYPES
    from sfmobile.export.weights import load_network

    observer.phase(spec.name, "load")
    scratch = path.parent / ".scratch"
    try:
        if options.format == "onnx":
            net = load_network(checkpoint, spec.name, scratch, TORCH_DTYPES[options.precision])
            _build_onnx(net, checkpoint, spec, options, setting, path, observer)
            return ()
        net = load_network(checkpoint, spec.name, scratch)
        scratch.mkdir(exist_ok=True)
        return _build_packages(net, checkpoint, spec, options, setting, path, observer)
    finally:
        remove(scratch)


def _build_packages(
    net: nn.Module,
    checkpoint: Checkpoint,
    spec: ComponentSpec,
    options: ExportOptions,
    setting: Setting,
    path: Path,
    observer: ExportObserver,
) -> tuple[ChunkRecord, ...]:
    """Write `path`: one package, one merged from several functions, or a directory of chunks. Whatever ships is
    compressed first and looked at afterwards."""
    from sfmobile.export.chunk import write_chunks
    from sfmobile.export.multifunction import merge_packages
    from sfmobile.export.stored_weights import check_stored

    whole = path.parent / ".scratch" / f"{spec.package}.mlpackage"
    chunks: tuple[ChunkRecord, ...] = ()
    if path.suffix == "":
        _build_package(net, checkpoint, spec, options, setting, whole, observer)
        observer.phase(spec.name, "cut")
        chunks = write_chunks(whole, path, options.chunks)
    elif options.multifunction and len(settings := function_settings(setting, spec.name, options)) > 1:
        parts = {function: whole.with_name(f"{function}.mlpackage") for function in settings}
        for function, part in parts.items():
            _build_package(net, checkpoint, spec, options, settings[function], part, observer)
        observer.phase(spec.name, "merge")
        merge_packages(parts, path)
    else:
        _build_package(net, checkpoint, spec, options, setting, path, observer)
    observer.phase(spec.name, "check")
    shipped = [path.parent / chunk.package for chunk in chunks] or [path]
    check_stored(shipped, _chosen(checkpoint, spec.name, options))
    return chunks


def _function_records(spec: ComponentSpec, options: ExportOptions, setting: Setting) -> tuple[FunctionRecord, ...]:
    """The functions of a component's package beside the default one."""
    settings = list(function_settings(setting, spec.name, options).items())[1:]
    return tuple(
        FunctionRecord(
            function=function, inputs=_io(spec.inputs(shapes), options), outputs=_io(spec.outputs(shapes), options)
        )
        for function, shapes in settings
    )


def _build_onnx(
    net: nn.Module,
    checkpoint: Checkpoint,
    spec: ComponentSpec,
    options: ExportOptions,
    setting: Setting,
    path: Path,
    observer: ExportObserver,
) -> None:
    from sfmobile.export.onnx_file import write_onnx
    from sfmobile.nets.attention import set_attention_form

    set_attention_form(net, options.attention)
    observer.phase(spec.name, "convert")
    inputs, outputs = _io(spec.inputs(setting), options), _io(spec.outputs(setting), options)
    write_onnx(net, path, _metadata(checkpoint, spec, options), inputs, outputs)


def _build_package(
    net: nn.Module,
    checkpoint: Checkpoint,
    spec: ComponentSpec,
    options: ExportOptions,
    setting: Setting,
    path: Path,
    observer: ExportObserver,
) -> None:
    from sfmobile.compress.palettize import palettize_program
    from sfmobile.export.lowering import lower, trace
    from sfmobile.export.package import write_package
    from sfmobile.nets.attention import set_attention_form

    set_attention_form(net, options.attention)
    inputs, outputs = spec.inputs(setting), spec.outputs(setting)
    observer.phase(spec.name, "trace")
    exported = trace(net, inputs)
    observer.phase(spec.name, "convert")
    program = lower(exported, inputs, outputs, options.target)
    chosen = {
        name: choice for name, choice in _chosen(checkpoint, spec.name, options).items() if choice.bits != FULL_BITS
    }
    if chosen:
        layers = _layers(checkpoint, spec.name)
        sizes = {layer_constant(layer): math.prod(shape) for layer, shape in layers.items()}
        observer.phase(spec.name, "palettize", sum(sizes[name] for name in chosen))
        palettize_program(program, chosen, advance=observer.advance)
    observer.phase(spec.name, "write")
    write_package(program, path, options.target, _metadata(checkpoint, spec, options), inputs, outputs)


def _metadata(checkpoint: Checkpoint, spec: ComponentSpec, options: ExportOptions) -> PackageMetadata:
    return PackageMetadata(
        description=spec.description,
        author=options.author,
        licence=checkpoint.licence if options.licence is None else options.licence,
        version=options.version,
        user={
            **options.metadata,
            "com.sfmobile.component": spec.name,
            "com.sfmobile.source": checkpoint.name,
            "com.sfmobile.version": __version__,
        },
    )


def _chosen(checkpoint: Checkpoint, name: ComponentName, options: ExportOptions) -> dict[str, LayerRecipe]:
    """How each constant of a component that can be compressed is to be stored, by the constant's name."""
    recipe = options.compression
    if recipe is None:
        return {}
    layers = _layers(checkpoint, name)
    return {layer_constant(layer): recipe.layer(name, layer) for layer in layers}


def _layers(checkpoint: Checkpoint, name: ComponentName) -> dict[str, tuple[int, ...]]:
    return compressible_layers({key: tuple(weight.shape) for key, weight in checkpoint.state_dict(name).items()})


def _compression_record(
    name: ComponentName, options: ExportOptions, layers: Mapping[str, tuple[int, ...]]
) -> CompressionRecord | None:
    recipe = options.compression
    if recipe is None or all(recipe.layer(name, layer).bits == FULL_BITS for layer in layers):
        return None
    main = recipe.main_choice(name, {layer: math.prod(shape) for layer, shape in layers.items()})
    return CompressionRecord(
        bits=main.bits,
        group_size=main.group_size,
        recipe_sha256=None if options.recipe is None else sha256_of_value(options.recipe.model_dump(mode="json")),
    )


def _io(records: tuple[TensorRecord, ...], options: ExportOptions) -> tuple[TensorRecord, ...]:
    """The records with float inputs and outputs in the export's precision."""
    return tuple(
        record if record.dtype == "int32" else record.model_copy(update={"dtype": options.precision})
        for record in records
    )


def _kept_components(
    writer: BundleWriter, checkpoint: Checkpoint, options: ExportOptions, setting: Setting, observer: ExportObserver
) -> dict[ComponentName, ComponentRecord]:
    """Components of the bundle at the target that this export doesn't rebuild.

    Raises `UsageError` if they would not fit the new ones.
    """
    manifest = writer.replaced()
    others = {} if manifest is None else dict(manifest.components)
    for name in options.components:
        others.pop(name, None)
    if manifest is None or not others:
        return {}
    expected = _latents(checkpoint, setting)
    names = ", ".join(others)
    for what, found, wanted in (
        ("latents", f"{manifest.latents.height}x{manifest.latents.width}", f"{expected.height}x{expected.width}"),
        ("target", manifest.target, options.target),
        ("format", next(iter(others.values())).format, options.format),
    ):
        if found != wanted:
            raise UsageError(
                f"'{writer.target}' holds {names} for {what} {found} but this export is for {wanted}; export all "
                "components, or choose another directory."
            )
    for name, record in others.items():
        if record.source_sha256 != _source_sha256(checkpoint, name, observer):
            raise UsageError(
                f"'{writer.target}' holds {name} of another checkpoint ('{manifest.source.id}'); export all "
                "components, or choose another directory."
            )
    return others


def _latents(checkpoint: Checkpoint, setting: Setting) -> LatentsRecord:
    height, width = setting.latent_size
    layout = checkpoint.autoencoder_layout
    return LatentsRecord(
        channels=checkpoint.unet_layout.in_channels,
        height=height,
        width=width,
        pixels_per_latent=layout.downsampling,
        scaling_factor=layout.scaling_factor,
    )


def _manifest(
    writer: BundleWriter,
    checkpoint: Checkpoint,
    options: ExportOptions,
    setting: Setting,
    components: dict[ComponentName, ComponentRecord],
    source_id: str,
) -> Manifest:
    """The manifest without golden vectors; writes the tokenizer folder."""
    tokenizer_files = writer.folder(TOKENIZER_FOLDER, lambda folder: copy_tokenizer(checkpoint.tokenizer_dir, folder))
    constants = read_tokenizer(checkpoint.tokenizer_dir)
    batch = options.guidance_batch
    if "unet" not in options.components and "unet" in components:
        batch = 2 if components["unet"].inputs[0].shape[0] == 2 else 1
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=checkpoint.name,
        source=SourceRecord(
            id=source_id,
            sha256=sha256_of_value({name: record.source_sha256 for name, record in components.items()}),
            licence=checkpoint.licence if options.licence is None else options.licence,
        ),
        target=options.target,
        options=options.record(setting.latent_size),
        tools={"sfmobile": __version__, **{name: version(name) for name in ("coremltools", "torch", "numpy")}},
        components=components,
        scheduler=checkpoint.scheduler,
        latents=_latents(checkpoint, setting),
        guidance=GuidanceRecord(batch=batch, default_scale=checkpoint.guidance_scale),
        time_embedding=checkpoint.time_embedding,
        tokenizer=TokenizerRecord(
            vocab=f"{TOKENIZER_FOLDER}/{VOCAB_FILE}",
            merges=f"{TOKENIZER_FOLDER}/{MERGES_FILE}",
            max_length=constants.max_length,
            bos_token_id=constants.bos_token_id,
            eos_token_id=constants.eos_token_id,
            pad_token_id=constants.pad_token_id,
            files=tokenizer_files,
        ),
    )


def _reference(manifest: Manifest) -> object:
    """All that golden vectors depend on: they are the reference's, so how a component is stored is no part of it."""
    sources = {name: component.source_sha256 for name, component in manifest.components.items()}
    fields = {"latents", "guidance", "scheduler", "time_embedding", "tokenizer"}
    return sources, manifest.model_dump(include=fields)


def _golden(
    writer: BundleWriter,
    manifest: Manifest,
    record: Callable[[Bundle], GoldenRun] | None,
    observer: ExportObserver,
) -> GoldenRecord | None:
    """Golden vectors of the new bundle: those of the replaced one if they still hold, else recorded anew."""
    old = writer.replaced()
    if old is not None and old.golden is not None and _reference(old) == _reference(manifest):
        golden = old.golden
        if writer.adopt_files(golden.files):
            return golden
    if record is None or set(manifest.components) != set(COMPONENTS):
        return None
    observer.phase(None, "golden")
    run = record(writer.preview(manifest))

    def write(folder: Path) -> None:
        for name, vector in run.vectors.items():
            np.save(folder / f"{name}.npy", vector, allow_pickle=False)

    return GoldenRecord(
        prompt=run.prompt,
        negative_prompt=run.negative_prompt,
        seed=run.seed,
        steps=run.steps,
        guidance_scale=run.guidance_scale,
        files=writer.folder(GOLDEN_FOLDER, write),
    )
