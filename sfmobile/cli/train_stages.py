"""`sfmobile train stage|all|assemble|plot`: run a plan's stages, each resumable, and write the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console
from sfmobile.models import find_recipe

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from sfmobile.train.loop import Progress
    from sfmobile.train.plan import PlanRun

PlanDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="PLAN",
        callback=find_recipe,
        help="Directory with recipe.json and a settings file per stage, or a name: glyph-128.",
    ),
]
RunDirectory = Annotated[Path, typer.Option("--run", help="Where the stages keep checkpoints, logs and results.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Sprites and metric weights.", show_default="$SFMOBILE_CACHE or ~/.cache/sfmobile"),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Stay on the CPU even where a GPU is found.")]


class _Display:
    """Shows a stage's progress: a bar with time left and the figures behind it."""

    def __init__(self, name: str, bars: Bars) -> None:
        self.name = name
        self.bars = bars
        self.task = bars.add_task(name, total=None)

    def step(self, progress: Progress) -> None:
        """Observer of a training loop."""
        figures = " ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
        self.bars.update(
            self.task,
            completed=progress.step,
            total=progress.steps,
            description=f"{self.name}  {figures}  {progress.images_per_second:.0f} img/s",
        )

    def count(self, done: int, total: int) -> None:
        """Observer of a loop that isn't training."""
        self.bars.update(self.task, completed=done, total=total)


def _open(plan: Path, run: Path, cache: Path | None = None, cpu: bool = False) -> PlanRun:
    from sfmobile.files import cache_folder
    from sfmobile.train.plan import PlanRun

    return PlanRun(plan, run, cache or cache_folder(), cpu)


def _run_stage(run: PlanRun, name: str) -> None:
    with console.progress(remaining=True) as bars:
        display = _Display(name, bars)
        run.run_stage(name, display.step, display.count)
    console.note(f"{name} is done: {run.run.root / name}")


def stage(
    plan: PlanDirectory,
    name: Annotated[str, typer.Argument(help="The stage, as the plan names it.")],
    run: RunDirectory,
    cache: Cache = None,
    cpu: Cpu = False,
) -> None:
    """Run one stage of a plan, from its last checkpoint if it was interrupted.

    On several GPUs: accelerate launch -m sfmobile.cli.main train stage …
    """
    _run_stage(_open(plan, run, cache, cpu), name)


def all_stages(plan: PlanDirectory, run: RunDirectory, cache: Cache = None, cpu: Cpu = False) -> None:
    """Run every stage of a plan that isn't done yet, in order."""
    opened = _open(plan, run, cache, cpu)
    for entry in opened.plan.stages:
        if opened.is_done(entry.name):
            console.note(f"{entry.name} is done already: {run / entry.name}")
        else:
            _run_stage(opened, entry.name)


def assemble(
    plan: PlanDirectory,
    run: RunDirectory,
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint directory to write.")],
) -> None:
    """Write the run's networks as a diffusers-format checkpoint (fp16, safetensors)."""
    from sfmobile.train.data.tokens import TOKENIZER_DIR

    _open(plan, run, cpu=True).assemble(output, TOKENIZER_DIR)
    console.print_text(str(output))


def plot(
    stage_directory: Annotated[Path, typer.Argument(help="A stage's directory in the run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG to write.", show_default="loss.png beside the log")
    ] = None,
) -> None:
    """Draw a stage's losses over its steps."""
    from sfmobile.train.curve import plot_log

    picture = output or stage_directory / "loss.png"
    plot_log(stage_directory / "log.jsonl", picture)
    console.print_text(str(picture))
