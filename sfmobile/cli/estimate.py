"""`sfmobile estimate`: size, fit and time on a device before any export."""

from __future__ import annotations

from typing import Annotated

import typer

from sfmobile.bundle.choices import AttentionForm, Target
from sfmobile.cli import console, options


def estimate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|LAYOUT|BUNDLE",
            help="A checkpoint as `export` takes it, a layout (sd15, sd21, snapfusion, sdxl, ssd-1b) or a bundle.",
        ),
    ],
    device: Annotated[str, typer.Option("--device", help='The phone: iphone-12, or "iPhone 12".')],
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also other bits, attention forms and smaller pictures, one change at a time."),
    ] = False,
    bits: options.BitsOption = None,
    attention: Annotated[
        AttentionForm, typer.Option("--attention", help="split-einsum suits the Neural Engine, original the GPU.")
    ] = "split-einsum",
    size: options.SizeOption = None,
    latent_size: options.OneLatentSizeOption = None,
    guidance_batch: Annotated[int, typer.Option("--guidance-batch", metavar="2|1", help="Batch of the UNet.")] = 2,
    target: Annotated[Target | None, typer.Option("--target", help="Earliest system; ios17 without it.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of a picture; the model's own without it.")
    ] = None,
    budget: Annotated[float, typer.Option("--budget", min=0.001, help="Seconds a picture may take.")] = 2.0,
    revision: options.RevisionOption = None,
    prediction: options.PredictionOption = None,
    json_output: options.JsonOption = False,
) -> None:
    """Say what a model would take of a phone before it is exported: size, memory and time, and what to choose.

    Networks are drawn without weights, so a checkpoint's aren't read, and nothing is executed. Every figure is an
    estimate and says how good it is; measured ones come from the iOS harness.
    """
    import sfmobile

    with console.watching() as observer:
        found = sfmobile.estimate(
            source,
            device=device,
            compare=compare,
            bits=options.parse_bits(bits),
            attention=attention,
            size=options.parse_optional_size(size, "--size"),
            latent_size=options.parse_optional_size(latent_size),
            guidance_batch=options.parse_batch(guidance_batch),
            target=target,
            steps=steps,
            budget=budget,
            revision=revision,
            prediction=prediction,
            observer=observer,
        )
    if json_output:
        console.print_json(found.record())
    else:
        console.print_parts(*found.parts())
