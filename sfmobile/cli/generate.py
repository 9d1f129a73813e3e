"""`sfmobile generate`: text to pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.cli import console, engine
from sfmobile.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from sfmobile.sampling.picture import Picture
    from sfmobile.sampling.pipeline import Request, TextToImage


@dataclass(frozen=True)
class Drawn:
    """A picture on disk and how long its parts took, in seconds."""

    path: Path
    previews: tuple[Path, ...]
    settings: dict[str, Any]
    steps_seconds: tuple[float, ...]
    seconds: float


def generate(
    bundle: engine.BundleArgument,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; one picture each.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.png", help="The picture; several are numbered.")
    ] = Path("picture.png"),
    steps: Annotated[int | None, typer.Option("--steps", help="DDIM steps; the model's default without it.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same picture.")] = 0,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Guidance scale; 1 is none. The model's default without it.")
    ] = None,
    negative: Annotated[str, typer.Option("--negative", help="What to keep away from.")] = "",
    runtime: engine.RuntimeOption = engine.RuntimeChoice.auto,
    precision: engine.PrecisionOption = engine.PrecisionChoice.fp32,
    compute_unit: engine.UnitOption = None,
    source: engine.SourceOption = None,
    latent_size: engine.LatentSizeOption = None,
    guidance_batch: engine.GuidanceBatchOption = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write the picture each step predicts (one decoder call a step).")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.png", help="Also write all pictures side by side.")
    ] = None,
    json_output: engine.JsonOption = False,
) -> None:
    """Draw pictures from text with an exported bundle."""
    from sfmobile.sampling.pipeline import Request, TextToImage

    check_output(output, sheet, prompts)
    opened = engine.open_bundle(bundle, latent_size, guidance_batch)
    chosen = engine.request_engine(opened, runtime, precision, compute_unit, source)
    requests = [Request(prompt, negative, seed, steps, guidance) for prompt in prompts]
    drawn: list[Drawn] = []
    pictures: list[Picture] = []
    with TextToImage.of_bundle(opened, chosen.open_on(opened)) as pipeline, console.progress() as bars:
        for number, request in enumerate(requests, start=1):
            warning = pipeline.tokenizer.tokenize(request.prompt).warning
            if warning:
                console.note(warning)
            count = opened.manifest.scheduler.default_steps if steps is None else steps
            task = bars.add_task(short(request.prompt), total=count)
            path = numbered(output, number, len(requests))
            picture, made = draw(pipeline, request, path, preview, partial(bars.advance, task))
            pictures.append(picture)
            drawn.append(made)
    if sheet is not None:
        side_by_side(pictures).save(sheet)
    report(drawn, sheet, json_output)


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


def draw(
    pipeline: TextToImage, request: Request, path: Path, preview: bool, advance: Callable[[], None]
) -> tuple[Picture, Drawn]:
    """Draw one request and write it."""
    from sfmobile.sampling.picture import Picture, to_pixels

    start = time.perf_counter()
    latents: np.ndarray | None = None
    seconds: list[float] = []
    previews: list[Path] = []
    for step in pipeline.steps(request):
        latents = step.latents
        seconds.append(step.seconds)
        if preview:
            previews.append(path.with_name(f"{path.stem}-step-{step.index + 1:02d}{path.suffix}"))
            settings = {**pipeline.settings(request, step.count), "preview_of_step": step.index + 1}
            Picture(to_pixels(pipeline.decode(step.denoised)), settings).save(previews[-1])
        advance()
    assert latents is not None  # a run has at least one step
    settings = pipeline.settings(request, len(seconds))
    picture = Picture(to_pixels(pipeline.decode(latents)), settings)
    elapsed = time.perf_counter() - start
    picture.save(path)
    return picture, Drawn(path, tuple(previews), dict(settings), tuple(seconds), elapsed)


def numbered(output: Path, number: int, count: int) -> Path:
    """`output` itself for a single picture, else with the picture's number."""
    return output if count == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}")


def side_by_side(pictures: list[Picture]) -> Picture:
    """All pictures in one row, or in rows of four."""
    import numpy as np

    from sfmobile.sampling.picture import Picture

    columns = min(len(pictures), 4)
    rows = -(-len(pictures) // columns)
    height, width, _ = pictures[0].pixels.shape
    pixels = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture.pixels
    prompts = " | ".join(str(picture.settings["prompt"]) for picture in pictures)
    return Picture(pixels, {**pictures[0].settings, "prompt": prompts})


def short(prompt: str) -> str:
    """A prompt in the room a progress bar has."""
    printable = "".join(character if character.isprintable() else " " for character in prompt)
    return printable if len(printable) <= 40 else f"{printable[:37]}..."


def report(drawn: list[Drawn], sheet: Path | None, as_json: bool) -> None:
    """Where the pictures are and how long they took."""
    if as_json:
        console.print_json(
            {
                "pictures": [
                    {
                        "path": str(one.path),
                        "previews": [str(path) for path in one.previews],
                        "settings": one.settings,
                        "steps_seconds": list(one.steps_seconds),
                        "seconds": one.seconds,
                    }
                    for one in drawn
                ],
                "sheet": None if sheet is None else str(sheet),
            }
        )
        return
    console.print_table(
        f"{drawn[0].settings['model']} on {drawn[0].settings['runtime']}",
        ("picture", "prompt", "steps", "per step", "in all"),
        (
            (
                str(one.path),
                short(str(one.settings["prompt"])),
                str(len(one.steps_seconds)),
                console.in_milliseconds(sum(one.steps_seconds) / len(one.steps_seconds)),
                console.in_milliseconds(one.seconds),
            )
            for one in drawn
        ),
        text_columns=(0, 1),
        caption="The first picture's time includes loading the components.",
    )
