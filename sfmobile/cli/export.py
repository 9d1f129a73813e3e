"""`sfmobile export`: a checkpoint to a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.cli import console, engine, footprint
from sfmobile.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName, ComponentRecord
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.export.exporter import GoldenRun, Phase
    from sfmobile.export.options import ExportOptions
    from sfmobile.export.plan import ExportPlan

DEFAULT_BITS = 6
PHASES: dict[str, str] = {
    "hash": "hashing the source",
    "load": "loading",
    "trace": "tracing",
    "convert": "converting",
    "palettize": "palettizing",
    "write": "writing",
    "cut": "cutting into chunks",
    "merge": "merging functions",
    "check": "checking what is stored",
    "checksum": "checksums",
    "golden": "recording golden vectors",
}


class AttentionChoice(str, Enum):
    """`--attention`."""

    split_einsum = "split-einsum"
    split_einsum_v2 = "split-einsum-v2"
    original = "original"


class TargetChoice(str, Enum):
    """`--target`."""

    ios16 = "ios16"
    ios17 = "ios17"
    ios18 = "ios18"


class FormatChoice(str, Enum):
    """`--format`."""

    mlprogram = "mlprogram"
    onnx = "onnx"


class OnnxPrecisionChoice(str, Enum):
    """`--precision`."""

    float16 = "float16"
    float32 = "float32"


class ComponentChoice(str, Enum):
    """`--component`."""

    text_encoder = "text_encoder"
    unet = "unet"
    decoder = "decoder"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A diffusers-format directory, a Hugging Face Hub id, or glyph, the built-in model."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle directory to make.")],
    attention: Annotated[
        AttentionChoice, typer.Option(help="split-einsum suits the Neural Engine, original the GPU.")
    ] = AttentionChoice.split_einsum,
    bits: Annotated[
        str | None, typer.Option(metavar="1|2|3|4|6|8|none", help="Bits per weight; 6 without it (ONNX: none).")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(metavar="N", help="A lookup table per N output channels (ios18), instead of one.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bits layer by layer, from `sfmobile compress search`.")
    ] = None,
    target: Annotated[TargetChoice, typer.Option(help="The earliest system the packages run on.")] = TargetChoice.ios17,
    component: Annotated[
        list[ComponentChoice] | None,
        typer.Option("--component", help="Only this one; may be repeated. All without it."),
    ] = None,
    latent_size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HxW",
            help="Latent height and width; the checkpoint's own without it. Several with --multifunction.",
        ),
    ] = None,
    guidance_batch: Annotated[
        int, typer.Option(metavar="2|1", help="2: both halves of guidance in one call; 1: one call each.")
    ] = 2,
    chunks: Annotated[int, typer.Option(metavar="N", help="Cut the UNet into N packages, for small phones.")] = 1,
    multifunction: Annotated[
        bool,
        typer.Option(
            "--multifunction",
            help="Packages of several functions over the same weights: both guidance batches, and every --latent-size "
            "if it is given several times (ios18).",
        ),
    ] = False,
    file_format: Annotated[FormatChoice, typer.Option("--format", help="What to write.")] = FormatChoice.mlprogram,
    precision: Annotated[
        OnnxPrecisionChoice | None, typer.Option(help="Precision of ONNX files; float16 without it.")
    ] = None,
    author: Annotated[str, typer.Option(help="Written into every package.")] = "",
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="The checkpoint's own without it.")
    ] = None,
    model_version: Annotated[str, typer.Option("--model-version", help="Written into every package.")] = "",
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Further metadata; may be repeated.")
    ] = None,
    golden: Annotated[
        bool, typer.Option("--golden/--no-golden", help="Record a reference run for tests (runs the checkpoint once).")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Rebuild components that are whole and current too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="JSON alone on stdout instead of a table.")] = False,
) -> None:
    """Export a checkpoint to a bundle of Core ML packages (or ONNX files) that phones and laptops run.

    What is already exported, whole and current is reused: run the same command again after an interruption.
    """
    from sfmobile.bundle.manifest import COMPONENTS
    from sfmobile.checkpoint.hub import open_checkpoint
    from sfmobile.export.options import ExportOptions

    sizes = [engine.parse_size(size) for size in latent_size or []]
    wanted_bits = parse_bits(bits, compressed=recipe is None and file_format is FormatChoice.mlprogram)
    options = ExportOptions(
        target=target.value,
        format=file_format.value,
        attention=attention.value,
        bits=wanted_bits,
        group_size=group_size,
        recipe=read_recipe(recipe),
        components=tuple(choice.value for choice in component) if component else COMPONENTS,
        latent_size=sizes[0] if sizes else None,
        guidance_batch=engine.parse_batch(guidance_batch),
        chunks=chunks,
        multifunction=multifunction,
        more_latent_sizes=tuple(sizes[1:]),
        precision=precision.value if precision is not None else "float16",
        force=force,
        author=author,
        licence=licence,
        version=model_version,
        metadata=parse_metadata(metadata or []),
    )
    with console.status(f"Opening {source}"):
        checkpoint = open_checkpoint(source)
    if checkpoint.root != Path(source):
        console.note(f"'{source}' is {checkpoint.root}")
    if dry_run:
        show_plan(checkpoint, output, options, json_output)
        return
    run_export(checkpoint, source, output, options, golden, json_output)


def run_export(
    checkpoint: Checkpoint, source: str, output: Path, options: ExportOptions, golden: bool, json_output: bool
) -> None:
    """Export with progress bars, then say what was made."""
    from sfmobile.export.exporter import export_bundle

    start = time.perf_counter()
    with console.progress() as bars:
        display = _display(bars)
        record = golden_recorder(checkpoint) if golden else None
        bundle = export_bundle(checkpoint, output, options, display, record, source_id=source)
    report(bundle, display.results, time.perf_counter() - start, json_output)


def _display(bars: Progress) -> Any:
    """An observer that shows each phase as a bar on `bars` and keeps (seconds, reused) per component."""
    from sfmobile.export.exporter import ExportObserver

    class Display(ExportObserver):
        def __init__(self) -> None:
            self.results: dict[ComponentName, tuple[float, bool]] = {}
            self._task: TaskID | None = None

        def phase(self, component: ComponentName | None, phase: Phase, total: int | None = None) -> None:
            self._end()
            name = PHASES[phase] if component is None else f"{component}: {PHASES[phase]}"
            self._task = bars.add_task(name, total=total)

        def advance(self, units: int) -> None:
            if self._task is not None:
                bars.advance(self._task, units)

        def finished(self, component: ComponentName, record: ComponentRecord, seconds: float, reused: bool) -> None:
            self._end()
            self.results[component] = (seconds, reused)
            done = "is current, reused" if reused else f"built in {seconds:.1f} s"
            console.note(f"{component}: {console.in_bytes(record.bytes)}, {done}")

        def _end(self) -> None:
            if self._task is not None:
                bars.remove_task(self._task)
                self._task = None

    return Display()


def golden_recorder(checkpoint: Checkpoint) -> Callable[[Bundle], GoldenRun]:
    """What records the golden vectors: one run of the torch reference with the bundle's own constants."""

    def record(bundle: Bundle) -> GoldenRun:
        from sfmobile.sampling.golden import golden_run

        return golden_run(bundle, checkpoint)

    return record


def report(bundle: Bundle, results: dict[ComponentName, tuple[float, bool]], seconds: float, json_output: bool) -> None:
    """Components, sizes, bits and times, as a table or as JSON."""
    components = bundle.manifest.components
    if json_output:
        console.print_json(
            {
                "bundle": str(bundle.root),
                "seconds": seconds,
                "bytes": sum(record.bytes for record in components.values()),
                "components": {
                    name: {
                        "package": record.package,
                        "parameters": record.parameters,
                        "bytes": record.bytes,
                        "bits_per_parameter": 8 * record.bytes / record.parameters,
                        "compression": None if record.compression is None else record.compression.model_dump(),
                        "attention": record.attention,
                        "seconds": results[name][0] if name in results else None,
                        "reused": results[name][1] if name in results else True,
                    }
                    for name, record in components.items()
                },
                "memory": footprint.record(bundle),
            }
        )
        return
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{record.parameters:,}",
            console.in_bytes(record.bytes),
            f"{8 * record.bytes / record.parameters:.2f}",
            describe_compression(record),
            describe_time(results.get(name)),
        )
        for name, record in components.items()
    ]
    total = sum(record.bytes for record in components.values())
    parameters = sum(record.parameters for record in components.values())
    rows.append(
        ("all", f"{parameters:,}", console.in_bytes(total), f"{8 * total / parameters:.2f}", "", f"{seconds:.1f} s")
    )
    manifest = bundle.manifest
    size = f"{manifest.latents.height}x{manifest.latents.width}"
    console.print_table(
        f"{bundle.root}: {manifest.target}, latents {size}, guidance batch {manifest.guidance.batch}",
        ("component", "parameters", "size", "bits/parameter", "weights", "time"),
        rows,
        text_columns=(0, 4),
    )
    footprint.show(bundle)
    console.print_text(f"Next: sfmobile verify {bundle.root}")


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
    group = record.compression.group_size
    return f"{record.compression.bits} bits" + (f" per {group} channels" if group else "")


def describe_time(result: tuple[float, bool] | None) -> str:
    """Seconds of a component, or why there are none."""
    if result is None:
        return "kept"
    seconds, reused = result
    return "reused" if reused else f"{seconds:.1f} s"


def show_plan(checkpoint: Checkpoint, output: Path, options: ExportOptions, json_output: bool) -> None:
    """What would be made, its size, and the disk it needs."""
    from sfmobile.export.plan import plan_export

    plan = plan_export(checkpoint, options)
    free = free_bytes(output)
    if json_output:
        console.print_json(plan_record(plan, output, free))
        return
    rows = [
        (
            part.name,
            f"{part.parameters:,}",
            console.in_bytes(part.bytes),
            ", ".join(f"{item.name} {'x'.join(map(str, item.shape))}" for item in part.inputs),
        )
        for part in plan.components
    ]
    height, width = plan.latent_size
    console.print_table(
        f"{output} (not made): {options.target}, latents {height}x{width}, attention {options.attention}",
        ("component", "parameters", "size", "inputs"),
        rows,
        text_columns=(0, 3),
        caption=f"Needs {console.in_bytes(plan.disk_bytes)} of disk; {console.in_bytes(free)} are free.",
    )


def plan_record(plan: ExportPlan, output: Path, free: int) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "bundle": str(output),
        "latent_size": list(plan.latent_size),
        "disk_bytes": plan.disk_bytes,
        "free_bytes": free,
        "components": {
            part.name: {
                "parameters": part.parameters,
                "bytes": part.bytes,
                "inputs": [item.model_dump(mode="json") for item in part.inputs],
                "outputs": [item.model_dump(mode="json") for item in part.outputs],
            }
            for part in plan.components
        },
    }


def free_bytes(path: Path) -> int:
    """Free bytes on the file system where `path` is or would be."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def parse_bits(text: str | None, compressed: bool) -> int | None:
    """`--bits`: a number or "none"; without it `DEFAULT_BITS` where weights are `compressed` at all."""
    if text is None:
        return DEFAULT_BITS if compressed else None
    if text == "none":
        return None
    if not text.isdecimal():
        raise UsageError(f"--bits {text} is no number of bits; expected 1, 2, 3, 4, 6, 8 or none.")
    return int(text)


def parse_metadata(items: list[str]) -> dict[str, str]:
    """`--metadata KEY=VALUE`, repeated."""
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--metadata {item} is no pair; expected KEY=VALUE.")
        pairs[key] = value
    return pairs


def read_recipe(path: Path | None) -> Any:
    """`--recipe`."""
    if path is None:
        return None
    from sfmobile.compress.recipe import Recipe

    return Recipe.read(path)
