"""`sfmobile generate`: text to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import UsageError
from sfmobile.sampling.choices import DEFAULT_FIT, Fit, PreviewKind
from sfmobile.sampling.emphasis import PromptSyntax
from sfmobile.tables import Table, in_milliseconds, shortened

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import Manifest
    from sfmobile.observer import Observer
    from sfmobile.sampling.grid import Choices, Variant
    from sfmobile.sampling.picture import Picture
    from sfmobile.sampling.pipeline import Drawing, Pipeline, Request

# Pixels of a preview's shorter side in a sheet, at least.
LEAST_PREVIEW = 96


@dataclass(frozen=True)
class Drawn:
    """A drawing on disk."""

    path: Path
    previews: tuple[Path, ...]
    drawing: Drawing
    bundle: str
    variant: Variant


def generate(
    bundle: options.BundleArgument,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; one picture each.")
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="More prompts, one a line; lines with # are none.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.png", help="The picture; several are numbered.")
    ] = Path("picture.png"),
    steps_text: Annotated[
        str | None,
        typer.Option("--steps", metavar="N,…", help="Sampling steps, one or several; the model's default without it."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same picture.")] = 0,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0-3,…", help="Several seeds, a picture of each, for --seed.")
    ] = None,
    guidance_text: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            metavar="SCALE,…",
            help="Guidance scale, one or several; 1 is none. The model's default without it.",
        ),
    ] = None,
    sampler: options.SamplerOption = None,
    eta: options.EtaOption = None,
    syntax: Annotated[
        PromptSyntax,
        typer.Option(
            "--prompt-syntax", help="a1111 reads weights, (word:1.3), and BREAK; plain takes prompts as they stand."
        ),
    ] = "plain",
    negative: Annotated[str, typer.Option("--negative", help="What to keep away from.")] = "",
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="A picture to start from, to repaint where --mask is white, or to edit, as the model does.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="S",
            help="How much of --image is drawn anew, above 0 to 1; 0.8 without it, 1 with a mask.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="FILE", help="White where --image is drawn anew; of its size."),
    ] = None,
    fit: Annotated[
        Fit,
        typer.Option(
            "--fit",
            help="How --image is brought to the bundle's size: fill covers it and cuts off the rest, fit lies within "
            "it on white, stretch changes its proportions.",
        ),
    ] = DEFAULT_FIT,
    image_guidance: Annotated[
        float | None,
        typer.Option(
            "--image-guidance",
            metavar="SCALE",
            help="How close a model that edits keeps to --image; 1.5 without it.",
        ),
    ] = None,
    paste: Annotated[
        bool, typer.Option("--paste/--no-paste", help="Put back what --mask doesn't cover as it was, with a soft edge.")
    ] = True,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="NAME=FILE[:SCALE]",
            help="A picture for a ControlNet of the bundle, at scale 1; may be repeated.",
        ),
    ] = None,
    control_start: Annotated[
        float,
        typer.Option("--control-start", metavar="SHARE", help="Of the steps: before it nothing is controlled."),
    ] = 0.0,
    control_end: Annotated[
        float, typer.Option("--control-end", metavar="SHARE", help="Of the steps: behind it nothing is controlled.")
    ] = 1.0,
    safety_checker: Annotated[
        bool,
        typer.Option(
            "--safety-checker/--no-safety-checker",
            help="Look at each picture before it is shown, where the bundle has what that takes; one that is flagged "
            "is black.",
        ),
    ] = True,
    original_size: Annotated[
        str | None,
        typer.Option(
            "--original-size",
            metavar="HxW",
            help="Of Stable Diffusion XL: how large the picture is said to have been; as it is drawn without it.",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="TOP,LEFT", help="The same: where it is said to be cut; 0,0 without it."),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option("--target-size", metavar="HxW", help="The same: the size it is said to be brought to."),
    ] = None,
    runtime: options.RuntimeOption = "auto",
    precision: options.PrecisionOption = "fp32",
    compute_unit: options.UnitOption = None,
    source: options.SourceOption = None,
    size: options.BundleSizeOption = None,
    latent_size: options.LatentSizeOption = None,
    guidance_batch: options.GuidanceBatchOption = None,
    previews: Annotated[
        Path | None,
        typer.Option(
            "--previews",
            metavar="DIR|FILE.png",
            help="Also what each step predicts: a picture a step in a directory, or all in one labelled picture.",
        ),
    ] = None,
    previews_by: Annotated[
        PreviewKind | None,
        typer.Option(
            "--previews-by",
            help="linear: small and rough, for next to nothing; tiny: by the bundle's own component for previews, one "
            "call a step, the default where it has one; decoder: as the picture would be, one call a step.",
        ),
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", hidden=True, help="--previews-by decoder, beside -o.")] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.png", help="Also write all pictures side by side.")
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            "--grid",
            metavar="FILE.png",
            help="Also write all pictures as one labelled picture: prompts × seeds × guidance × steps × bundles.",
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="BUNDLE", help="Also draw with this bundle; may be repeated."),
    ] = None,
    compare_samplers: Annotated[
        str | None,
        typer.Option(
            "--compare-samplers",
            metavar="NAME,…|all",
            help="One prompt, these samplers × --compare-steps, as one labelled picture at --output.",
        ),
    ] = None,
    compare_steps: Annotated[
        str, typer.Option("--compare-steps", metavar="N,…", help="Steps of --compare-samplers.")
    ] = "4,8,16",
    json_output: options.JsonOption = False,
) -> None:
    """Draw pictures from text with an exported bundle; from a picture, into a part of one, or edited, with --image."""
    import sfmobile
    from sfmobile.sampling.grid import Choices, file_name, grid_sheet, parse_seeds, read_prompts
    from sfmobile.sampling.picture import sheet as side_by_side
    from sfmobile.sampling.pipeline import Request

    asked = (*(prompts or ()), *(read_prompts(prompts_file) if prompts_file is not None else ()))
    choices = Choices(
        asked,
        (seed,) if seeds is None else parse_seeds(seeds),
        options.parse_numbers("--guidance", guidance_text),
        options.parse_counts("--steps", steps_text),
    )
    check_output(output, sheet, grid, asked, previews)
    check_options(
        choices, beside, compare_samplers, previews, previews_by, preview, control, control_start, control_end
    )
    steps, guidance = choices.steps[0], choices.guidances[0]
    sizes = options.parse_sizes(original_size, crop, target_size)
    compared = (
        None if compare_samplers is None else comparison(compare_samplers, compare_steps, asked, steps, sampler, eta)
    )
    drawn: list[Drawn] = []
    names = bundle_names([bundle, *(beside or ())])
    for path, name in names.items():
        with (
            console.watching() as observer,
            sfmobile.Pipeline(
                path,
                runtime=runtime,
                precision=precision,
                compute_unit=compute_unit,
                source=source,
                latent_size=options.bundle_latents(path, size, latent_size),
                guidance_batch=options.parse_optional_batch(guidance_batch),
                observer=observer,
            ) as pipeline,
        ):
            given = pipeline.given(image, mask, strength, fit, image_guidance, paste, observer)
            controls = pipeline.controls(control or (), control_start, control_end, observer)
            say_what_is_strange(pipeline.manifest, asked, observer)
            if compared is not None:
                request = Request(
                    asked[0],
                    negative,
                    seed,
                    guidance_scale=guidance,
                    given=given,
                    syntax=syntax,
                    controls=controls,
                    safety_checker=safety_checker,
                    sizes=sizes,
                )
                compare(pipeline, request, *compared, output, json_output, observer)
                return
            own: PreviewKind = (
                "tiny" if pipeline.manifest.pipeline.preview in pipeline.manifest.components else "linear"
            )
            kind = previews_by or own if previews is not None else "decoder" if preview else None
            for one in choices.variants():
                prompt, seed, steps, guidance = one.prompt, one.seed, one.steps, one.guidance
                request = Request(
                    prompt,
                    negative,
                    seed,
                    steps,
                    guidance,
                    sampler,
                    eta,
                    given,
                    syntax,
                    controls,
                    safety_checker,
                    sizes,
                )
                drawing = pipeline.draw(request, preview=kind or False, observer=observer)
                file = file_name(output, one, len(asked), name if len(names) > 1 else "")
                drawing.picture.save(file)
                drawn.append(Drawn(file, save_previews(drawing, file, previews), drawing, name, one))
    if previews is not None and previews.suffix:
        steps_sheet(drawn).save(previews)
    if sheet is not None:
        side_by_side([one.drawing.picture for one in drawn]).save(sheet)
    if grid is not None:
        grid_sheet([(one.bundle, one.variant, one.drawing.picture) for one in drawn]).save(grid)
    if json_output:
        console.print_json(as_json(drawn, sheet, grid))
    else:
        console.print_parts(table(drawn, choices))


def check_options(
    choices: Choices,
    beside: list[Path] | None,
    compare_samplers: str | None,
    previews: Path | None,
    previews_by: PreviewKind | None,
    preview: bool,
    control: list[str] | None,
    control_start: float,
    control_end: float,
) -> None:
    """Refuse options that make no sense together."""
    if not choices.prompts:
        raise UsageError("There is nothing to draw: name a PROMPT, or --prompts FILE.")
    if compare_samplers is not None and (previews is not None or preview):
        raise UsageError("--previews is of single pictures, --compare-samplers of the last; leave one out.")
    if compare_samplers is not None and (beside or not choices.is_single):
        raise UsageError("--compare-samplers draws one prompt with one seed, scale and bundle; leave the others out.")
    if previews_by is not None and previews is None:
        raise UsageError("--previews-by says who makes the pictures of --previews DIR|FILE.png; give that too.")
    if previews is not None and previews.suffix and (beside or not choices.is_single):
        raise UsageError("One picture of all previews has a row a prompt; write several a prompt into a directory.")
    if not control and (control_start, control_end) != (0.0, 1.0):
        raise UsageError("--control-start and --control-end are of --control NAME=FILE; give that too.")


def bundle_names(bundles: list[Path]) -> dict[Path, str]:
    """A name for each bundle in files and labels: its directory's. Raises `UsageError` for two of one name."""
    names = {path: path.resolve().name for path in bundles}
    if len(names) < len(bundles) or len(set(names.values())) < len(names):
        raise UsageError("Two bundles have one name, by which their pictures are called; rename one's directory.")
    return names


def say_what_is_strange(manifest: Manifest, prompts: tuple[str, ...], observer: Observer) -> None:
    """With the built-in model: what of the prompts it never learnt."""
    from sfmobile.sampling.vocabulary import vocabulary_of

    vocabulary = vocabulary_of(manifest)
    for prompt in dict.fromkeys(prompts):
        note = None if vocabulary is None else vocabulary.note(prompt)
        if note is not None:
            observer.note(note)


def comparison(
    samplers: str,
    steps: str,
    prompts: tuple[str, ...],
    other_steps: int | None,
    other_sampler: str | None,
    eta: float | None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """`--compare-samplers` (none for all) and `--compare-steps`. Raises `UsageError` for what can't be compared."""
    if len(prompts) != 1 or any(other is not None for other in (other_steps, other_sampler, eta)):
        raise UsageError("--compare-samplers draws one prompt and takes neither --steps, --sampler nor --eta.")
    names = () if samplers == "all" else tuple(samplers.split(","))
    counts = steps.split(",")
    if not all(count.isascii() and count.isdigit() for count in counts):
        raise UsageError(f"--compare-steps {steps} is no list of numbers; expected 4,8,16 say.")
    return names, tuple(int(count) for count in counts)


def compare(
    pipeline: Pipeline,
    request: Request,
    samplers: tuple[str, ...],
    steps: tuple[int, ...],
    output: Path,
    json_output: bool,
    observer: Observer,
) -> None:
    """Draw `request` with every sampler and number of steps; all are checked before the first is drawn."""
    from dataclasses import replace

    from sfmobile.sampling.picture import labelled_sheet
    from sfmobile.sampling.samplers.named import walkers

    samplers = samplers or walkers(pipeline.manifest.sampler)
    wanted = [[replace(request, sampler=name, steps=count) for count in steps] for name in samplers]
    calls = [[pipeline.calls(one) for one in row] for row in wanted]
    rows = [
        (name, [pipeline.draw(one, observer=observer).picture for one in row])
        for name, row in zip(samplers, wanted, strict=True)
    ]
    labelled_sheet(rows, [f"{count} steps" for count in steps]).save(output)
    if json_output:
        console.print_json(
            {"sheet": str(output), "samplers": dict(zip(samplers, calls, strict=True)), "steps": list(steps)}
        )
        return
    body = tuple((name, *map(str, row)) for name, row in zip(samplers, calls, strict=True))
    console.print_parts(
        Table(
            f"{output}: {shortened(request.prompt)}",
            ("sampler", *(f"UNet calls, {count} steps" for count in steps)),
            body,
        )
    )


def check_output(
    output: Path, sheet: Path | None, grid: Path | None, prompts: tuple[str, ...], previews: Path | None = None
) -> None:
    """Refuse before any work what can't be written after it."""
    if previews is not None and not previews.suffix and previews.exists() and not previews.is_dir():
        raise UsageError(f"'{previews}' is a file; expected a directory for the previews, or a name that ends in .png.")
    named = (output, sheet, grid, previews if previews and previews.suffix else None)
    files = [path for path in named if path is not None]
    for path in files:
        if path.suffix.lower() != ".png":
            raise UsageError(f"'{path}' should end in .png, the only format pictures are written in.")
        if path.parent.exists() and not path.parent.is_dir():
            raise UsageError(f"'{path.parent}' is a file; expected a directory for the picture.")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise UsageError(f"Prompt {number} is empty; say what to draw.")
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)


def save_previews(drawing: Drawing, picture: Path, where: Path | None) -> tuple[Path, ...]:
    """Write what each step predicts, into the directory `where` or beside the picture; nothing if `where` is a file."""
    if where is not None and where.suffix:
        return ()
    folder = picture.parent if where is None else where
    paths = tuple(
        folder / f"{picture.stem}-step-{number:02d}{picture.suffix}" for number in range(1, len(drawing.previews) + 1)
    )
    if paths:
        folder.mkdir(parents=True, exist_ok=True)
    for path, preview in zip(paths, drawing.previews, strict=True):
        preview.save(path)
    return paths


def steps_sheet(drawn: Sequence[Drawn]) -> Picture:
    """All previews as one picture: a row for each prompt, a column for each step, large enough to be seen."""
    from sfmobile.sampling.picture import Picture, labelled_sheet

    height, width, _ = drawn[0].drawing.previews[0].pixels.shape
    times = max(1, -(-LEAST_PREVIEW // min(height, width)))
    rows = [
        (
            shortened(str(one.drawing.picture.settings["prompt"])),
            [Picture(each.pixels.repeat(times, 0).repeat(times, 1), each.settings) for each in one.drawing.previews],
        )
        for one in drawn
    ]
    return labelled_sheet(rows, [f"step {number}" for number in range(1, len(rows[0][1]) + 1)])


def as_json(drawn: Sequence[Drawn], sheet: Path | None, grid: Path | None) -> dict[str, object]:
    """Where the pictures are, what made them, and how long they took."""
    pictures = [
        {
            "path": str(one.path),
            "bundle": one.bundle,
            "previews": [str(path) for path in one.previews],
            "settings": dict(one.drawing.picture.settings),
            "steps_seconds": list(one.drawing.steps_seconds),
            "seconds": one.drawing.seconds,
            "safety": None if one.drawing.safety is None else one.drawing.safety.record(),
        }
        for one in drawn
    ]
    return {
        "pictures": pictures,
        "sheet": None if sheet is None else str(sheet),
        "grid": None if grid is None else str(grid),
    }


def table(drawn: Sequence[Drawn], choices: Choices) -> Table:
    """The same for people."""
    from sfmobile.sampling.pipeline import SAFETY_KEY

    settings = drawn[0].drawing.picture.settings
    # Of a bundle that has one.
    looked_at = SAFETY_KEY in settings
    varied = () if choices.is_single else ("of it",)
    columns = ("picture", "prompt", *varied, "steps", "per step", "in all", *(["safety"] if looked_at else []))
    texts = {"picture", "prompt", "of it", "safety"}
    return Table(
        f"{settings['model']} on {settings['runtime']}",
        columns,
        tuple(
            (
                str(one.path),
                shortened(str(one.drawing.picture.settings["prompt"])),
                *(one.variant.column for _ in varied),
                str(len(one.drawing.steps_seconds)),
                in_milliseconds(sum(one.drawing.steps_seconds) / len(one.drawing.steps_seconds) * 1e3),
                in_milliseconds(one.drawing.seconds * 1e3),
                *([str(one.drawing.picture.settings[SAFETY_KEY])] if looked_at else []),
            )
            for one in drawn
        ),
        text_columns=tuple(index for index, column in enumerate(columns) if column in texts),
        caption="The first picture's time includes loading the components.",
    )
