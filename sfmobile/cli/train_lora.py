"""`sfmobile train lora`: a checkpoint taught somebody's own pictures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options


def lora(
    source: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="What is taught, as `export` takes it.")],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Pictures with captions: name.png and name.txt, or metadata.jsonl that names both."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.safetensors", help="The LoRA to write.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of learning.")] = 500,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of each change; more can hold more.")] = 8,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of AdamW.")] = 1e-4,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a step.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="The same seed learns the same on the same machine.")] = 0,
    device: Annotated[
        str | None, typer.Option("--device", metavar="cpu|cuda", help="Where torch computes; a GPU if there is one.")
    ] = None,
    json_output: options.JsonOption = False,
) -> None:
    """Fine-tune the UNet of CHECKPOINT on your own pictures, and write what it learned as a LoRA.

    Attention projections learn a change of low rank; nothing else of the checkpoint changes. `export --lora` merges the
    file, and so do diffusers and others.
    """
    from sfmobile.train.own.lora import train_lora

    with console.watching() as observer:
        learned = train_lora(
            source,
            folder,
            output,
            steps=steps,
            rank=rank,
            learning_rate=learning_rate,
            batch=batch,
            seed=seed,
            device=device,
            observer=observer,
        )
    if json_output:
        console.print_json(
            {
                "lora": str(learned.path),
                "pictures": learned.pictures,
                "steps": learned.steps,
                "rank": learned.rank,
                "losses": list(learned.losses),
            }
        )
        return
    console.print_text(str(learned))
    words = ["sfmobile", "export", source, "--lora", str(output), "-o", f"out/{output.stem}"]
    console.print_text(f"Next: {shlex.join(words)}")
