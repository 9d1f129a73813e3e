"""`sfmobile train evolve`: decide a UNet's layout by what each block is worth per millisecond."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.cli.train_stages import Cache, Cpu, PlanDirectory, RunDirectory
from sfmobile.errors import UsageError
from sfmobile.inspect.lookup.choices import TimerKind

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from sfmobile.inspect.lookup.table import GrowingTable
    from sfmobile.train.evolve.run import EvolutionSettings, Judge, Observers
    from sfmobile.train.loop import Observer, Progress
    from sfmobile.train.run import Run


def evolve(
    plan: PlanDirectory,
    run: RunDirectory,
    name: Annotated[
        str, typer.Argument(help="Settings file in the plan without .json, and the directory in the run.")
    ] = "evolution",
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="TABLE.json",
            help="Lookup table of profile-blocks.",
            show_default="lookup.json in the run",
        ),
    ] = None,
    timer: Annotated[
        TimerKind | None,
        typer.Option("--timer", help="What times blocks that the table lacks: mil, coreml on a Mac, or the estimate."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device whose estimate fills the table, e.g. iphone-14-pro.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option("--judge", help="dual_encoder.safetensors.", show_default="the one that comes along")
    ] = None,
    cache: Cache = None,
    blocks: Annotated[
        Path | None, typer.Option("--blocks", metavar="DIR", help="Where block packages are kept, by content hash.")
    ] = None,
    cpu: Cpu = False,
    json_output: options.JsonOption = False,
) -> None:
    """Evolve a UNet's layout to a latency (SnapFusion, Algorithm 1).

    Each round fine-tunes with blocks dropped at random, weighs every removal by the agreement it costs per millisecond
    it saves, and carries out the cheapest; below the target it copies what is worth most.

    RUN/NAME/ keeps each round's layout and weights, decisions.jsonl, path.png and the evolved network; an interrupted
    evolution goes on where it was. Spread over processes: accelerate launch -m sfmobile train evolve …
    """
    from sfmobile.files import cache_folder
    from sfmobile.train.config import read_config
    from sfmobile.train.evolve.run import EvolutionRun, EvolutionSettings
    from sfmobile.train.plan import PlanRun

    settings = read_config(EvolutionSettings, plan / f"{name}.json")
    where = cache or cache_folder()
    opened = PlanRun(plan, run, where, cpu).run
    lookup = open_table(opened, settings, table or run / "lookup.json", timer, device, blocks)
    with console.status("reading sprites and the dual encoder"):
        judged = open_judge(opened, settings, plan, where, judge)
    first = int(os.environ.get("RANK", "0")) == 0
    with console.progress(remaining=True) as bars:
        show = observers(bars) if first else None
        EvolutionRun(opened, name, settings, judged, lookup.latency, show).evolve()
    if first:
        finish(run / name, json_output)


def open_table(
    run: Run,
    settings: EvolutionSettings,
    path: Path,
    kind: TimerKind | None,
    device: str | None,
    blocks: Path | None,
) -> GrowingTable:
    """The lookup table at the latents' size, and what times the blocks it lacks."""
    from sfmobile.files import cache_folder
    from sfmobile.inspect.lookup.block_keys import BlockOptions
    from sfmobile.inspect.lookup.block_packages import CACHE
    from sfmobile.inspect.lookup.table import GrowingTable, read_table
    from sfmobile.inspect.lookup.timers import choose_timer

    height, width = (int(side) for side in run.pool(settings.pool).latents.shape[2:])
    held = read_table(path) if path.is_file() else None
    options = BlockOptions(height=height, width=width) if held is None else held.options
    if (options.height, options.width) != (height, width):
        raise UsageError(
            f"The table '{path}' is of latents of {options.height}x{options.width}, those of '{settings.pool}' are of "
            f"{height}x{width}; make one with `sfmobile profile-blocks --latent-size {height}x{width}`."
        )
    timer = None
    if kind is not None or device is not None:
        chosen = kind or "estimate"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and chosen != "estimate":
            raise UsageError(
                "Several processes would each measure other times; make the table with `sfmobile profile-blocks` "
                "first and leave --timer out."
            )
        timer = choose_timer(chosen, device)
        if held is not None and held.runtime != timer.name:
            raise UsageError(
                f"The table '{path}' holds timings of {held.runtime}, not of {timer.name}; use another file."
            )
    return GrowingTable(path, held, options, timer, blocks or cache_folder(CACHE))


def open_judge(run: Run, settings: EvolutionSettings, plan: Path, cache: Path, dual_encoder: Path | None) -> Judge:
    """The dual encoder and the prompts that it scores pictures of."""
    import torch

    from sfmobile.evaluate.agreement import Agreement, prompts_apart
    from sfmobile.evaluate.evaluation import DUAL_ENCODER
    from sfmobile.evaluate.metrics.dual_encoder import DualEncoder
    from sfmobile.train.config import read_config
    from sfmobile.train.data.tokens import CaptionTokenizer
    from sfmobile.train.evolve.run import Judge
    from sfmobile.train.pictures import Pictures, PicturesConfig

    tokenizer = CaptionTokenizer(run.networks.text_encoder.max_length)

    def encode(captions: object) -> torch.Tensor:
        return torch.as_tensor(tokenizer.encode_batch(captions))  # type: ignore[arg-type]

    encoder = DualEncoder.load(dual_encoder or DUAL_ENCODER).to(run.device)
    sprites = Pictures.open(cache, read_config(PicturesConfig, plan / f"{settings.pictures}.json"), run.device).pool
    prompts = prompts_apart(sprites.sprites, run.pool(settings.pool), encode, settings.prompt_kinds, settings.prompts)
    return Judge(Agreement(encoder, encode, prompts), encode)


def observers(bars: Bars) -> Observers:
    """Bars for the loop that runs and for the weighing, a line for each decision."""
    from sfmobile.train.evolve.run import Observers

    task = bars.add_task("evolution", total=None)

    def training(name: str) -> Observer:
        def step(progress: Progress) -> None:
            figures = f"loss {progress.figures.get('loss', float('nan')):.4g}  {progress.images_per_second:.0f} img/s"
            bars.update(
                task, completed=progress.step, total=progress.steps, description=f"{name}: fine-tuning  {figures}"
            )

        return step

    def counted(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total, description="weighing removals")

    return Observers(console.note, training, counted)


def finish(root: Path, json_output: bool) -> None:
    """Draw the path and print the rounds."""
    from sfmobile.files import read_json
    from sfmobile.train.evolve.evolution import read_decisions
    from sfmobile.train.evolve.plot import plot_path, read_path

    plot_path(root, root / "path.png")
    console.note(f"The path is drawn in {root / 'path.png'}; the network is in {root / 'weights.safetensors'}")
    result = read_json(root / "result.json", "an evolution's result", "evolve again")
    if json_output:
        console.print_json({**result, "decisions": read_decisions(root)})
        return
    chosen = ["-", *("; ".join(entry["chosen"]) or "nothing" for entry in read_decisions(root))]
    console.print_table(
        f"Evolution to {result['target_ms']:.4g} ms a UNet call",
        ("", "actions", "latency", "agreement"),
        [
            (label, actions, f"{latency:.4g} ms", "-" if score is None else f"{score:.4f}")
            for (label, _, latency, score), actions in zip(read_path(root), chosen, strict=True)
        ],
        text_columns=(0, 1),
        caption="Agreement behind a round's actions is that of the next round's start, fine-tuned; the last is final.",
    )
