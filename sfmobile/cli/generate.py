"""`sfmobile generate`: text to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import UsageError
from sfmobile.tables import Table, in_milliseconds, shortened

if TYPE_CHECKING:
    from sfmobile.sampling.pipeline import Drawing


@dataclass(frozen=True)
class Drawn:
    """A drawing on disk."""

    path: Path
    previews: tuple[Path, ...]
    drawing: Drawing


def generate(
    bundle: options.BundleArgument,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; one picture each.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.png", help="The picture; several are numbered.")
    ] = Path("picture.png"),
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps; the model's default without it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same picture.")] = 0,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Guidance scale; 1 is none. The model's default without it.")
    ] = None,
    sampler: options.SamplerOption = None,
    negative: Annotated[str, typer.Option("--negative", help="What to keep away from.")] = "",
    runtime: options.RuntimeOption = "auto",
    precision: options.PrecisionOption = "fp32",
    compute_unit: options.UnitOption = None,
    source: options.SourceOption = None,
    latent_size: options.LatentSizeOption = None,
    guidance_batch: options.GuidanceBatchOption = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write the picture each step predicts (one decoder call a step).")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.png", help="Also write all pictures side by side.")
    ] = None,
    json_output: options.JsonOption = False,
) -> None:
    """Draw pictures from text with an exported bundle."""
    import sfmobile
    from sfmobile.sampling.picture import sheet as side_by_side
    from sfmobile.sampling.pipeline import Request

    check_output(output, sheet, prompts)
    drawn: list[Drawn] = []
    with (
        console.watching() as observer,
        sfmobile.Pipeline(
            bundle,
            runtime=runtime,
            precision=precision,
            compute_unit=compute_unit,
            source=source,
            latent_size=options.parse_optional_size(latent_size),
            guidance_batch=options.parse_optional_batch(guidance_batch),
            observer=observer,
        ) as pipeline,
    ):
        for number, prompt in enumerate(prompts, start=1):
            request = Request(prompt, negative, seed, steps, guidance, sampler)
            drawing = pipeline.draw(request, preview=preview, observer=observer)
            drawn.append(save(drawing, numbered(output, number, len(prompts))))
    if sheet is not None:
        side_by_side([one.drawing.picture for one in drawn]).save(sheet)
    if json_output:
        console.print_json(as_json(drawn, sheet))
    else:
        console.print_parts(table(drawn))


def check_output(output: Path, sheet: Path | None, prompts: list[str]) -> None:
    """Refuse before any work what can't be written after it."""
    for path in (output, *([sheet] if sheet is not None else [])):
        if path.suffix.lower() != ".png":
            raise UsageError(f"'{path}' should end in .png, the only format pictures are written in.")
        if path.parent.exists() and not path.parent.is_dir():
            raise UsageError(f"'{path.parent}' is a file; expected a directory for the picture.")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise UsageError(f"Prompt {number} is empty; say what to draw.")
    for path in (output, *([sheet] if sheet is not None else [])):
        path.parent.mkdir(parents=True, exist_ok=True)


def numbered(output: Path, number: int, count: int) -> Path:
    """`output` itself for a single picture, else with the picture's number."""
    return output if count == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}")


def save(drawing: Drawing, path: Path) -> Drawn:
    """Write a picture, and the previews of its steps beside it."""
    previews = []
    for number, preview in enumerate(drawing.previews, start=1):
        previews.append(path.with_name(f"{path.stem}-step-{number:02d}{path.suffix}"))
        preview.save(previews[-1])
    drawing.picture.save(path)
    return Drawn(path, tuple(previews), drawing)


def as_json(drawn: Sequence[Drawn], sheet: Path | None) -> dict[str, object]:
    """Where the pictures are, what made them, and how long they took."""
    pictures = [
        {
            "path": str(one.path),
            "previews": [str(path) for path in one.previews],
            "settings": dict(one.drawing.picture.settings),
            "steps_seconds": list(one.drawing.steps_seconds),
            "seconds": one.drawing.seconds,
        }
        for one in drawn
    ]
    return {"pictures": pictures, "sheet": None if sheet is None else str(sheet)}


def table(drawn: Sequence[Drawn]) -> Table:
    """The same for people."""
    settings = drawn[0].drawing.picture.settings
    return Table(
        f"{settings['model']} on {settings['runtime']}",
        ("picture", "prompt", "steps", "per step", "in all"),
        tuple(
            (
                str(one.path),
                shortened(str(one.drawing.picture.settings["prompt"])),
                str(len(one.drawing.steps_seconds)),
                in_milliseconds(sum(one.drawing.steps_seconds) / len(one.drawing.steps_seconds) * 1e3),
                in_milliseconds(one.drawing.seconds * 1e3),
            )
            for one in drawn
        ),
        text_columns=(0, 1),
        caption="The first picture's time includes loading the components.",
    )
