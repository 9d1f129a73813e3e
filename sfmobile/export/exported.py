"""A bundle fresh from the exporter: made with the command's options, and what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sfmobile.bundle.choices import AttentionForm, ComponentName, FloatType, Form, Format, Target
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.scheduler import replacement_note
from sfmobile.checkpoint.source import ControlNetChoice, EmbeddingChoice, LoraChoice, Prediction
from sfmobile.compress.recipe import LayerRecipe, Recipe
from sfmobile.errors import UsageError
from sfmobile.export.component import fitted, with_wanted
from sfmobile.export.coreai_asset import EXPERIMENTAL, stored_as
from sfmobile.export.exporter import export_bundle
from sfmobile.export.golden import SHORT_SECONDS, plan_golden_run
from sfmobile.export.options import COREAI_TARGET, ExportOptions
from sfmobile.export.phases import ExportObserver
from sfmobile.observer import Observer
from sfmobile.tables import Table, in_bytes

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentRecord, Manifest
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.export.apple.form import AppleForm
    from sfmobile.export.phases import Phase
    from sfmobile.sampling.golden import GoldenRun

# Of a Core ML or Core AI export that says nothing of its weights.
DEFAULT_BITS = 6
# Of a Core ML export that says nothing of its target; an .aimodel is made from the latest form.
DEFAULT_TARGET: Target = "ios17"
# Bits a parameter over bits of a weight, from where on the difference is explained.
MUCH_MORE = 1.5
PHASES: dict[Phase, str] = {
    "hash": "hashing the source",
    "load": "loading",
    "trace": "tracing",
    "convert": "converting",
    "palettize": "palettizing",
    "write": "writing",
    "cut": "cutting into chunks",
    "merge": "merging functions",
    "bridge": "bridging to Core AI",
    "check": "checking what is stored",
    "checksum": "checksums",
    "golden": "recording golden vectors",
}


@dataclass(frozen=True)
class Made:
    """How a component came into its bundle: built, in so many seconds, or reused because it was whole and current."""

    seconds: float
    reused: bool


class ExportedBundle(Bundle):
    """A bundle with what exporting it took. made: components of this export; others were kept. seconds: in all.

    apple: its folder in the form of Apple's Swift package, if it was asked for.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        made: Mapping[ComponentName, Made],
        seconds: float,
        apple: AppleForm | None = None,
    ) -> None:
        super().__init__(root, manifest)
        self.made = dict(made)
        self.seconds = seconds
        self.apple = apple

    def table(self) -> Table:
        """Components, sizes, bits and times, for people."""
        manifest = self.manifest
        records = manifest.components
        rows: list[tuple[str, ...]] = [
            (
                name,
                f"{record.parameters:,}",
                in_bytes(record.bytes),
                f"{8 * record.bytes / record.parameters:.2f}",
                describe_compression(record),
                self._time(name),
            )
            for name, record in records.items()
        ]
        total = sum(record.bytes for record in records.values())
        parameters = sum(record.parameters for record in records.values())
        average = f"{8 * total / parameters:.2f}"
        rows.append(("all", f"{parameters:,}", in_bytes(total), average, "", f"{self.seconds:.1f} s"))
        size = f"{manifest.latents.height}x{manifest.latents.width}"
        core_ai = any(record.format == "coreai" for record in records.values())
        system = "Core AI" if core_ai else manifest.target
        return Table(
            f"{self.root}: {system}, latents {size}, guidance batch {manifest.guidance.batch}",
            ("component", "parameters", "size", "bits/parameter", "weights", "time"),
            tuple(rows),
            text_columns=(0, 4),
            caption=self._caption(core_ai),
        )

    def _caption(self, core_ai: bool) -> str | None:
        """What the table's figures don't say of themselves."""
        said = [f"Core AI is {EXPERIMENTAL}."] if core_ai else []
        if any(
            record.compression is not None
            and 8 * record.bytes > MUCH_MORE * record.compression.bits * record.parameters
            for record in self.manifest.components.values()
        ):
            said.append(
                "Embeddings, biases and norms aren't palettized, and graphs take room too: that is why there are more "
                "bits a parameter than the weights have."
            )
        return " ".join(said) or None

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        components = self.manifest.components
        return {
            "bundle": str(self.root),
            "seconds": self.seconds,
            "apple": None
            if self.apple is None
            else {"folder": str(self.apple.folder), "notes": list(self.apple.notes), "command": self.apple.command},
            "bytes": sum(record.bytes for record in components.values()),
            "components": {
                name: {
                    "package": record.package,
                    "parameters": record.parameters,
                    "bytes": record.bytes,
                    "bits_per_parameter": 8 * record.bytes / record.parameters,
                    "compression": None if record.compression is None else record.compression.model_dump(),
                    "attention": record.attention,
                    "seconds": self.made[name].seconds if name in self.made else None,
                    "reused": self.made[name].reused if name in self.made else True,
                }
                for name, record in components.items()
            },
        }

    def __str__(self) -> str:
        return str(self.table())

    def _time(self, name: ComponentName) -> str:
        if name not in self.made:
            return "kept"
        return "reused" if self.made[name].reused else f"{self.made[name].seconds:.1f} s"


def export(
    source: Checkpoint | Path | str,
    output: Path | str,
    *,
    revision: str | None = None,
    lora: Sequence[LoraChoice | Path | str] = (),
    embedding: Sequence[EmbeddingChoice | Path | str] = (),
    vae: Path | str | None = None,
    preview: Path | str | None = None,
    tokenizer: Path | str | None = None,
    prediction: Prediction | None = None,
    control: Sequence[ControlNetChoice | str] = (),
    ema: bool = False,
    attention: AttentionForm = "split-einsum",
    bits: int | Literal["none"] | None = None,
    group_size: int | None = None,
    recipe: Recipe | Path | str | None = None,
    target: Target | None = None,
    component: ComponentName | Sequence[ComponentName] | None = None,
    extra: ComponentName | Sequence[ComponentName] = (),
    size: tuple[int, int] | Sequence[tuple[int, int]] = (),
    latent_size: tuple[int, int] | Sequence[tuple[int, int]] = (),
    guidance_batch: Literal[1, 2] = 2,
    chunks: int = 1,
    multifunction: bool = False,
    multifunction_decoder: bool = False,
    format: Format = "mlprogram",
    onnx_precision: FloatType = "float16",
    clip_skip: int = 0,
    prompt_chunks: int = 1,
    default_steps: int | None = None,
    default_guidance: float | None = None,
    author: str = "",
    licence: str | None = None,
    model_version: str = "",
    metadata: Mapping[str, str] | None = None,
    golden: bool = True,
    golden_steps: int | None = None,
    force: bool = False,
    form: Form | None = None,
    observer: Observer | None = None,
) -> ExportedBundle:
    """Export a checkpoint to the bundle directory `output`: Core ML packages (or ONNX files, or .aimodels).

    What is already exported there, whole and current, is reused: call it again after an interruption. Whatever
    happens, `output` is the old bundle or the new one, whole.

    source: a diffusers-format directory, a single file, a Hugging Face Hub id, or an opened checkpoint. revision, lora,
    embedding, vae, preview, tokenizer, prediction, control, ema: as `open_checkpoint` takes them. attention:
    split-einsum suits the Neural Engine, original the GPU. bits: per weight, 1, 2, 3, 4, 6 or 8; "none" for fp16;
    without it 6 (ONNX: none). group_size: a lookup table per so many output channels (ios18). recipe: bits layer by
    layer, in place of both. target: the earliest system the packages run on, ios17 without it. component: only these,
    in place of all of the checkpoint's pipeline. extra: optional components beside them: "encoder", to start from a
    picture. size: (height, width) of a picture in pixels, the checkpoint's own without it; several with multifunction.
    latent_size: the same in latents. guidance_batch: 2 for both halves of guidance in one call. chunks: packages the
    UNet is cut into. multifunction: packages of several functions over the same weights (ios18); multifunction_decoder:
    the decoder's too, which iOS 18 was seen to crash with.
    format: "onnx" for ONNX files, of onnx_precision; "coreai", experimental, for .aimodels. clip_skip: last layers of
    the text encoder to leave out, counted as diffusers does. prompt_chunks: of 75 tokens that the UNet reads, for long
    prompts. default_steps, default_guidance: of a picture that nobody asks otherwise for; the checkpoint's own without
    them. author, licence, model_version, metadata: written into every
    package. golden: record a reference run for tests, of golden_steps steps, by default the model's own or as many as
    a minute has room for. force: rebuild what is whole and current too. form: "apple" writes the packages also in the
    form that Apple's Swift package loads, into the folder apple of the bundle.

    Raises `UsageError` for options that don't fit, `ArtifactError` for a damaged checkpoint, `UnavailableError` for
    too little disk, no network, or another export into `output`.
    """
    options = export_options(
        attention=attention,
        bits=bits,
        group_size=group_size,
        recipe=recipe,
        target=target,
        component=component,
        extra=extra,
        size=size,
        latent_size=latent_size,
        guidance_batch=guidance_batch,
        chunks=chunks,
        multifunction=multifunction,
        multifunction_decoder=multifunction_decoder,
        format=format,
        onnx_precision=onnx_precision,
        clip_skip=clip_skip,
        prompt_chunks=prompt_chunks,
        default_steps=default_steps,
        default_guidance=default_guidance,
        author=author,
        licence=licence,
        model_version=model_version,
        metadata=metadata,
        force=force,
    )
    observer = observer or Observer()
    observer.start(f"Opening {source}")
    checkpoint = open_checkpoint(
        source,
        revision,
        lora=lora,
        embedding=embedding,
        vae=vae,
        preview=preview,
        tokenizer=tokenizer,
        prediction=prediction,
        control=control,
        ema=ema,
        full_precision=options.precision == "float32",
        parts=options.components,
        extras=options.extras,
    )
    return export_checkpoint(
        checkpoint, Path(output), options, golden=golden, golden_steps=golden_steps, form=form, observer=observer
    )


def export_options(
    *,
    attention: AttentionForm = "split-einsum",
    bits: int | Literal["none"] | None = None,
    group_size: int | None = None,
    recipe: Recipe | Path | str | None = None,
    target: Target | None = None,
    component: ComponentName | Sequence[ComponentName] | None = None,
    extra: ComponentName | Sequence[ComponentName] = (),
    size: tuple[int, int] | Sequence[tuple[int, int]] = (),
    latent_size: tuple[int, int] | Sequence[tuple[int, int]] = (),
    guidance_batch: Literal[1, 2] = 2,
    chunks: int = 1,
    multifunction: bool = False,
    multifunction_decoder: bool = False,
    format: Format = "mlprogram",
    onnx_precision: FloatType = "float16",
    clip_skip: int = 0,
    prompt_chunks: int = 1,
    default_steps: int | None = None,
    default_guidance: float | None = None,
    author: str = "",
    licence: str | None = None,
    model_version: str = "",
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> ExportOptions:
    """What `export` is asked to make, checked before anything is opened."""
    sizes = _sizes(latent_size)
    opened = None if recipe is None else recipe if isinstance(recipe, Recipe) else Recipe.read(Path(recipe))
    if bits is None and opened is None and format != "onnx":
        bits = DEFAULT_BITS
    return ExportOptions(
        target=target or (COREAI_TARGET if format == "coreai" else DEFAULT_TARGET),
        format=format,
        attention=attention,
        bits=None if bits == "none" else bits,
        group_size=group_size,
        recipe=opened,
        components=(component,) if isinstance(component, str) else None if component is None else tuple(component),
        extras=(extra,) if isinstance(extra, str) else tuple(extra),
        clip_skip=clip_skip,
        prompt_chunks=prompt_chunks,
        default_steps=default_steps,
        default_guidance=default_guidance,
        latent_size=sizes[0] if sizes else None,
        sizes=tuple(_sizes(size)),
        guidance_batch=guidance_batch,
        chunks=chunks,
        multifunction=multifunction,
        multifunction_decoder=multifunction_decoder,
        more_latent_sizes=tuple(sizes[1:]),
        precision=onnx_precision,
        force=force,
        author=author,
        licence=licence,
        version=model_version,
        metadata=dict(metadata or {}),
    )


def _sizes(given: tuple[int, int] | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """One latent size, or several, as several."""
    match given:
        case (int(height), int(width)):
            return [(height, width)]
        case _:
            return [(height, width) for height, width in given]


def export_checkpoint(
    checkpoint: Checkpoint,
    output: Path,
    options: ExportOptions,
    *,
    golden: bool = True,
    golden_steps: int | None = None,
    source_id: str | None = None,
    form: Form | None = None,
    observer: Observer | None = None,
) -> ExportedBundle:
    """Export an opened checkpoint. source_id: what the manifest says it was, by default where it was opened from.

    form: a further form of the packages, see `export`.
    """
    from sfmobile.export.apple.form import FOLDER, drop_stale, refuse_misfits, refuse_strangers, write_apple_form
    from sfmobile.sampling.golden import golden_run

    if golden_steps is not None and not golden:
        raise UsageError("--golden-steps is for a golden run, and --no-golden leaves it out; choose one.")
    if form is not None:
        refuse_misfits(fitted(options, checkpoint), checkpoint.pipeline)
        refuse_strangers(output / FOLDER)
    told = observer or Observer()

    def record(bundle: Bundle) -> GoldenRun:
        plan = plan_golden_run(checkpoint, bundle.manifest, golden_steps)
        if plan.steps < plan.default or plan.seconds > SHORT_SECONDS:
            told.note(str(plan))
        told.start(PHASES["golden"], plan.steps + 1)
        return golden_run(bundle, checkpoint, steps=plan.steps, advance=told.advance)

    start = time.perf_counter()
    described = with_wanted(checkpoint, options).description
    for note in (*described.notes, *described.missed.values()):
        told.note(f"{checkpoint.name}: {note}.")
    if checkpoint.sampler_replaced:
        told.note(replacement_note(checkpoint.sampler_replaced))
    phases = _Phases(told)
    recorder = record if golden else None
    bundle = export_bundle(checkpoint, output, options, phases, recorder, source_id, golden_steps=golden_steps)
    apple = write_apple_form(bundle, told) if form is not None else None
    if apple is None and drop_stale(bundle):
        told.note(f"{bundle.root / FOLDER} was of the bundle before and is removed; export with --for apple again.")
    return ExportedBundle(bundle.root, bundle.manifest, phases.made, time.perf_counter() - start, apple)


class _Phases(ExportObserver):
    """Tells an observer of the exporter's phases, and keeps how each component was made."""

    def __init__(self, observer: Observer) -> None:
        self.made: dict[ComponentName, Made] = {}
        self._observer = observer

    def phase(self, component: ComponentName | None, phase: Phase, total: int | None = None) -> None:
        what = PHASES[phase] if component is None else f"{component}: {PHASES[phase]}"
        self._observer.start(what, total, "bytes" if phase == "hash" else "pieces")

    def advance(self, units: int) -> None:
        self._observer.advance(units)

    def finished(self, component: ComponentName, record: ComponentRecord, seconds: float, reused: bool) -> None:
        self.made[component] = Made(seconds, reused)
        done = "is current, reused" if reused else f"built in {seconds:.1f} s"
        self._observer.note(f"{component}: {in_bytes(record.bytes)}, {done}")


def describe_compression(record: ComponentRecord) -> str:
    """How a component's weights are stored, in a few words."""
    packaging = f", {len(record.chunks)} chunks" if record.chunks else ""
    if record.functions:
        packaging = f", {len(record.functions) + 1} functions"
    return describe_weights(record) + packaging


def describe_weights(record: ComponentRecord) -> str:
    """How single weights are stored."""
    if record.compression is None:
        return record.compute_precision
    if record.compression.recipe_sha256 is not None:
        return f"recipe, mostly {record.compression.bits} bits"
    group, bits = record.compression.group_size, record.compression.bits
    width = stored_as(LayerRecipe(bits=bits)).bits if record.format == "coreai" else bits
    stored = f", stored in {width}" if width != bits else ""
    whole = record.compression.ungrouped_layers
    grouped = f" per {group} channels" + (f", {whole} layers whole" if whole else "") if group else ""
    return f"{bits} bits{stored}{grouped}"
