"""`sfmobile evaluate` and `sfmobile train evaluate|dual-encoder`: measure checkpoints and runs; train what measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console
from sfmobile.models import find_recipe

if TYPE_CHECKING:
    from sfmobile.evaluate.report import EvaluationRecord
    from sfmobile.train.loop import Progress

Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Sprites and metric weights.", show_default="$SFMOBILE_CACHE or ~/.cache/sfmobile"),
]
Judge = Annotated[
    Path | None, typer.Option("--judge", help="dual_encoder.safetensors.", show_default="the one that comes along")
]
Out = Annotated[Path, typer.Option("-o", "--output", help="Directory for evaluation.json, .md and pictures.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Stay on the CPU even where a GPU is found.")]


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Directory of a diffusers-format checkpoint.")],
    output: Out,
    teacher: Annotated[Path | None, typer.Option("--teacher", help="A second checkpoint to compare with.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the checkpoint.")] = 8,
    teacher_steps: Annotated[int, typer.Option("--teacher-steps", min=1, help="Steps of the teacher.")] = 50,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", metavar="NAME", help="Of both.", show_default="each checkpoint's own"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", min=1.0, help="Guidance scale.", show_default="what each checkpoint recommends"),
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=2, help="Pictures for distances and agreement.")] = 128,
    composed: Annotated[int, typer.Option("--composed", min=1, help="Prompts of each exact check.")] = 24,
    selection: Annotated[
        Path | None,
        typer.Option("--trained-on", help="pictures.json of the plan that trained it.", show_default="all sprites"),
    ] = None,
    memorisation: Annotated[
        bool, typer.Option("--memorisation", help="Also measure the distance to training drawings (needs LPIPS).")
    ] = False,
    cache: Cache = None,
    judge: Judge = None,
    cpu: Cpu = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Measure the pictures of a checkpoint on prompts that it never saw.

    Distances are named after their network and stand beside the floor that real pictures reach; the dual encoder's own
    retrieval comes first; exact checks of composed prompts stand beside their accuracy on real compositions.
    """
    import torch

    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.errors import UsageError
    from sfmobile.evaluate.evaluation import (
        DUAL_ENCODER,
        PARTS,
        Evaluation,
        EvaluationConfig,
        load_judges,
    )
    from sfmobile.evaluate.prompt_sets import trained_checks
    from sfmobile.evaluate.report import EvaluationRecord, machine
    from sfmobile.files import cache_folder
    from sfmobile.sampling.samplers.named import name_of
    from sfmobile.train.config import read_config
    from sfmobile.train.network_sampler import checkpoint_sampler, picture_side
    from sfmobile.train.pictures import Pictures, PicturesConfig

    where = cache or cache_folder()
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    compared = [(Checkpoint.open(checkpoint), steps)]
    if teacher is not None:
        compared.append((Checkpoint.open(teacher), teacher_steps))
    side = picture_side(compared[0][0])
    if any(picture_side(opened) != side for opened, _ in compared):
        raise UsageError(f"{teacher}: its pictures have another size than the {side} px of {checkpoint}.")
    trained_on = PicturesConfig() if selection is None else read_config(PicturesConfig, selection)
    config = EvaluationConfig(
        pictures=pictures,
        composed=composed,
        checks=trained_checks(trained_on.kinds),
        memorised=min(pictures, 64),
        training=1000,
        batch=16,
    )
    with console.status("reading sprites and metric networks"):
        judges = load_judges(where, judge or DUAL_ENCODER, device, memorisation=memorisation)
        evaluation = Evaluation(Pictures.open(where, trained_on, device).pool, judges, config, side, trained_on.splits)
    parts = PARTS if memorisation else tuple(part for part in PARTS if part != "memorisation")
    with console.status("measuring real pictures"):
        made = {**evaluation.describe(), "machine": machine(device)}
        record = EvaluationRecord(made, evaluation.judge_figures(128), kinds=evaluation.kinds())
        record.measurements.append(evaluation.real(parts))
    for opened, count in compared:
        scale = opened.guidance_scale if guidance is None else guidance
        draw = checkpoint_sampler(opened, steps=count, guidance_scale=scale, device=device, sampler=sampler)
        walked = sampler or name_of(opened.sampler)
        name = f"{opened.name}, {_steps(count)} of {walked}, guidance {scale:g}"
        with console.progress(remaining=True) as bars:
            task = bars.add_task(name, total=evaluation.picture_count(parts))
            measured = evaluation.measure(
                name,
                draw,
                {"checkpoint": str(opened.root), "sampler": walked, "steps": count, "guidance": scale},
                parts,
                observer=lambda done, task=task: bars.update(task, completed=done),  # type: ignore[misc]
            )
        record.measurements.append(measured)
        record.write(output / "evaluation.json")
    _finish(record, output, as_json)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def evaluate_run(
    plan: Annotated[
        Path,
        typer.Argument(
            metavar="PLAN",
            callback=find_recipe,
            help="Directory with recipe.json and evaluation.json, or a name: glyph-128.",
        ),
    ],
    run: Annotated[Path, typer.Option("--run", help="The run whose stages are measured.")],
    output: Out,
    pictures: Annotated[
        int | None, typer.Option("--pictures", min=2, help="Pictures for distances, in place of the plan's number.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Name of a variant of the plan; repeatable.", show_default="all")
    ] = None,
    throughput: Annotated[
        int, typer.Option("--throughput", min=0, help="Only time the sampling of so many pictures; on an idle machine.")
    ] = 0,
    cache: Cache = None,
    judge: Judge = None,
    cpu: Cpu = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Measure every stage, sweep and ablation of a run by its plan; what is measured already is kept."""
    from sfmobile.evaluate.evaluation import DUAL_ENCODER
    from sfmobile.evaluate.plan import evaluate_by_plan
    from sfmobile.files import cache_folder

    with console.status("measuring"):
        record = evaluate_by_plan(
            plan,
            run,
            cache or cache_folder(),
            output,
            judge=judge or DUAL_ENCODER,
            pictures=pictures,
            only=only or (),
            throughput=throughput,
            cpu=cpu,
            say=console.note,
        )
    _finish(record, output, as_json)


def _finish(record: EvaluationRecord, output: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from sfmobile.evaluate.plots import write_plots
    from sfmobile.evaluate.report import markdown, parts
    from sfmobile.files import write_text

    write_text(output / "evaluation.md", markdown(record))
    for path in write_plots(record, output):
        console.note(f"wrote {path}")
    if as_json:
        console.print_json(asdict(record))
    else:
        console.print_parts(*parts(markdown(record)))


def dual_encoder(
    config: Annotated[Path, typer.Argument(help="JSON settings, e.g. models/recipes/glyph-64/dual-encoder.json.")],
    run: Annotated[Path, typer.Option("--run", help="Where checkpoints, log and result are kept.")],
    cache: Cache = None,
    cpu: Cpu = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print its retrieval figures as JSON.")] = False,
) -> None:
    """Train the dual encoder that measures agreement, on drawings that no generator sees; resumes if interrupted."""
    from sfmobile.evaluate.contrastive import train_from_cache
    from sfmobile.files import cache_folder, read_json

    with console.progress(remaining=True) as bars:
        task = bars.add_task("dual encoder", total=None)

        def show(progress: Progress) -> None:
            figures = " ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
            bars.update(task, completed=progress.step, total=progress.steps, description=f"dual encoder  {figures}")

        train_from_cache(config, cache or cache_folder(), run, observer=show, cpu=cpu)
    figures = read_json(run / "retrieval.json", "the dual encoder's figures", "run the command again")
    if as_json:
        console.print_json(figures)
        return
    console.print_table(
        f"Retrieval of {run / 'dual_encoder.safetensors'} on real held-out pictures",
        ("pictures", "pairs", "candidates", "R@1", "R@5", "agreement"),
        [
            (
                name,
                str(own["pairs"]),
                str(own["candidates"]),
                f"{100 * own['recall_at_1']:.1f} %",
                f"{100 * own['recall_at_5']:.1f} %",
                f"{own['agreement']:.3f}",
            )
            for name, own in figures.items()
        ],
    )
