"""`sfmobile export`: a checkpoint to a bundle."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.bundle.choices import AttentionForm, FloatType, Form, Format, Target
from sfmobile.cli import console, options
from sfmobile.errors import UsageError
from sfmobile.tables import Table, in_bytes

if TYPE_CHECKING:
    from sfmobile.export.exported import ExportedBundle
    from sfmobile.export.options import ExportOptions
    from sfmobile.export.plan import ExportPlan


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A diffusers-format directory, a single .safetensors file, a Hugging Face Hub id, or glyph, the "
            "built-in model.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle directory to make.")],
    revision: options.RevisionOption = None,
    lora: options.LoraOption = None,
    embedding: options.EmbeddingOption = None,
    vae: options.VaeOption = None,
    preview: options.PreviewDecoderOption = None,
    tokenizer: options.TokenizerOption = None,
    prediction: options.PredictionOption = None,
    control: options.ControlNetOption = None,
    ema: Annotated[bool, typer.Option("--ema", help="Of a single file, the weights averaged in training.")] = False,
    attention: Annotated[
        AttentionForm, typer.Option(help="split-einsum suits the Neural Engine, original the GPU.")
    ] = "split-einsum",
    bits: options.BitsOption = None,
    group_size: Annotated[
        int | None, typer.Option(metavar="N", help="A lookup table per N output channels (ios18), instead of one.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bits layer by layer, from `sfmobile compress search`.")
    ] = None,
    target: Annotated[
        Target | None, typer.Option(help="The earliest system the packages run on; ios17 without it.")
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(
            "--component",
            metavar=options.COMPONENT_METAVAR,
            help="Only this one; may be repeated. All of the checkpoint's pipeline without it.",
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="COMPONENT",
            help="An optional component beside the pipeline's: encoder, to start from a picture or repaint a part of "
            "one; safety_checker, to look at each picture before it is shown. May be repeated.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="The picture's height and width in pixels; the checkpoint's own without it. Several with "
            "--multifunction.",
        ),
    ] = None,
    latent_size: Annotated[
        list[str] | None, typer.Option(metavar="HxW", help="The same in latents: 64x64 is 512x512 pixels.")
    ] = None,
    guidance_batch: Annotated[
        int, typer.Option(metavar="2|1", help="2: both halves of guidance in one call; 1: one call each.")
    ] = 2,
    chunks: Annotated[int, typer.Option(metavar="N", help="Cut the UNet into N packages, for small phones.")] = 1,
    multifunction: Annotated[
        bool,
        typer.Option(
            "--multifunction",
            help="A UNet of several functions over the same weights: both guidance batches, and every --latent-size "
            "or --size if it is given several times (ios18).",
        ),
    ] = False,
    multifunction_decoder: Annotated[
        bool,
        typer.Option(
            "--multifunction-decoder",
            help="The decoder too: one function for every --latent-size. iOS 18 was seen to crash while loading such a "
            "decoder (coremltools issue 2414); try it on the device.",
        ),
    ] = False,
    file_format: Annotated[
        Format,
        typer.Option("--format", help="What to write; coreai, .aimodels for iOS 27, is experimental."),
    ] = "mlprogram",
    form: Annotated[
        Form | None,
        typer.Option(
            "--for", help="Also in the form that Apple's Swift package and the apps built on it load, in BUNDLE/apple."
        ),
    ] = None,
    onnx_precision: Annotated[
        FloatType, typer.Option("--onnx-precision", help="Float type of ONNX files; Core ML packages are float16.")
    ] = "float16",
    clip_skip: Annotated[
        int,
        typer.Option(
            "--clip-skip",
            metavar="N",
            help="Leave out the text encoder's last N layers, counted as diffusers does (elsewhere one more).",
        ),
    ] = 0,
    prompt_chunks: Annotated[
        int,
        typer.Option(
            "--prompt-chunks", metavar="N", help="Chunks of 75 tokens that the UNet reads, for prompts longer than one."
        ),
    ] = 1,
    default_steps: Annotated[
        int | None,
        typer.Option("--default-steps", metavar="N", help="Steps of a picture if nobody says; the checkpoint's own."),
    ] = None,
    default_guidance: Annotated[
        float | None,
        typer.Option(
            "--default-guidance",
            metavar="SCALE",
            help="Guidance scale if nobody says; the checkpoint's own.",
        ),
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
    golden_steps: Annotated[
        int | None,
        typer.Option(
            "--golden-steps",
            min=1,
            metavar="N",
            help="Steps of that run; the model's default, or as many as a minute has room for, without it.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild components that are whole and current too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,
    json_output: options.JsonOption = False,
) -> None:
    """Export a checkpoint to a bundle of Core ML packages (or ONNX files, or .aimodels) that phones and laptops run.

    What is already exported, whole and current is reused: run the same command again after an interruption.
    """
    from sfmobile.checkpoint.hub import open_checkpoint
    from sfmobile.export.exported import export_checkpoint, export_options

    wanted = export_options(
        attention=attention,
        bits=options.parse_bits(bits),
        group_size=group_size,
        recipe=recipe,
        target=target,
        component=component or None,
        extra=extra or (),
        size=[options.parse_size(one, "--size") for one in size or ()],
        latent_size=[options.parse_size(one) for one in latent_size or ()],
        guidance_batch=options.parse_batch(guidance_batch),
        chunks=chunks,
        multifunction=multifunction,
        multifunction_decoder=multifunction_decoder,
        format=file_format,
        onnx_precision=onnx_precision,
        clip_skip=clip_skip,
        prompt_chunks=prompt_chunks,
        default_steps=default_steps,
        default_guidance=default_guidance,
        author=author,
        licence=licence,
        model_version=model_version,
        metadata=parse_metadata(metadata or []),
        force=force,
    )
    with console.watching() as observer:
        observer.start(f"Opening {source}")
        checkpoint = open_checkpoint(
            source,
            revision,
            lora=lora or (),
            embedding=embedding or (),
            vae=vae,
            preview=preview,
            tokenizer=tokenizer,
            prediction=prediction,
            control=control or (),
            ema=ema,
            full_precision=wanted.precision == "float32",
            parts=wanted.components,
            extras=wanted.extras,
        )
        if checkpoint.root != Path(source):
            console.note(f"'{source}' is {checkpoint.root}")
        for text in checkpoint.notes:
            console.note(text)
        if not dry_run:
            made = export_checkpoint(
                checkpoint, output, wanted, golden=golden, golden_steps=golden_steps, form=form, observer=observer
            )
    if dry_run:
        from sfmobile.export.apple.form import refuse_misfits
        from sfmobile.export.component import fitted
        from sfmobile.export.plan import plan_export
        from sfmobile.files import require_writable

        if form is not None:
            refuse_misfits(fitted(wanted, checkpoint), checkpoint.pipeline)
        if not output.exists():
            require_writable(output)
        show_plan(plan_export(checkpoint, wanted), output, wanted, json_output)
        return
    if (
        (wanted.more_latent_sizes or wanted.sizes[1:])
        and (wanted.components is None or checkpoint.pipeline.decoder in wanted.components)
        and not wanted.multifunction_decoder
    ):
        console.note(
            "The decoder has one function, of the first size: the other sizes can't be decoded without "
            "--multifunction-decoder, with which iOS 18 was seen to crash."
        )
    show(made, json_output)


def show(bundle: ExportedBundle, as_json: bool) -> None:
    """What was made, and what it takes of a phone; as tables or as JSON."""
    from sfmobile.inspect.estimate.phones import estimated_footprint, memory_record, memory_table, warnings

    footprint = estimated_footprint(bundle)
    if as_json:
        console.print_json(bundle.record() | {"memory": None if footprint is None else memory_record(footprint)})
        return
    console.print_parts(bundle.table())
    if footprint is not None:
        console.print_parts(memory_table(footprint))
        for warning in warnings(footprint):
            console.note(warning)
    if bundle.apple is not None:
        for text in bundle.apple.notes:
            console.note(f"For apple: {text}")
        console.print_text(f"On a Mac: {bundle.apple.command}")
    console.print_text(f"Next: {next_command(bundle)}")


def next_command(bundle: ExportedBundle) -> str:
    """What to run next, as a shell takes it: `verify` runs ML Programs unless it is told what else the bundle holds."""
    formats = {record.format for record in bundle.manifest.components.values()}
    others = [word for kind in sorted(formats - {"mlprogram"}) for word in ("--runtime", kind)]
    return shlex.join(["sfmobile", "verify", str(bundle.root), *others])


def show_plan(plan: ExportPlan, output: Path, wanted: ExportOptions, as_json: bool) -> None:
    """What would be made, its size, and the disk it needs."""
    free = free_bytes(output)
    if as_json:
        console.print_json(plan_record(plan, output, free))
        return
    height, width = plan.latent_size
    rows = tuple(
        (
            part.name,
            f"{part.parameters:,}",
            in_bytes(part.bytes),
            ", ".join(f"{item.name} {'x'.join(map(str, item.shape))}" for item in part.inputs),
        )
        for part in plan.components
    )
    title = f"{output} (not made): {wanted.target}, latents {height}x{width}, attention {wanted.attention}"
    enough = "are free" if free >= plan.disk_bytes else "are free: too few"
    caption = f"Needs {in_bytes(plan.disk_bytes)} of disk; {in_bytes(free)} {enough}."
    console.print_parts(Table(title, ("component", "parameters", "size", "inputs"), rows, (0, 3), caption))


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


def parse_metadata(items: list[str]) -> dict[str, str]:
    """`--metadata KEY=VALUE`, repeated."""
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--metadata {item} is no pair; expected KEY=VALUE.")
        pairs[key] = value
    return pairs
