"""`sfmobile compress`: recipes of mixed bits, searched for and applied."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sfmobile.bundle.choices import Target
from sfmobile.cli import console, export, options
from sfmobile.errors import UsageError


def search(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A diffusers-format directory, or a Hugging Face Hub id.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The recipe to write, JSON.")],
    signal: Annotated[
        float | None, typer.Option("--signal", metavar="DB", help="The smallest recipe with at least this PSNR.")
    ] = None,
    same_signal_as: Annotated[
        int | None,
        typer.Option("--same-signal-as", metavar="BITS", help="... with that of uniform BITS; 6 if nothing is asked."),
    ] = None,
    same_size_as: Annotated[
        int | None, typer.Option("--same-size-as", metavar="BITS", help="The best recipe of uniform BITS' size.")
    ] = None,
    average_bits: Annotated[
        float | None,
        typer.Option("--average-bits", metavar="BITS", help="The best recipe of so many bits a weight, 4.04 say."),
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(
            "--component",
            metavar=options.COMPONENT_METAVAR,
            help="What to search for; may be repeated. The UNet without it.",
        ),
    ] = None,
    target: Annotated[
        Target, typer.Option(help="ios18 adds 3 bits and lookup tables per group of channels.")
    ] = "ios17",
    group_size: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Channels per group to try (ios18); may be repeated.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt to run; may be repeated. Four of ours without it.")
    ] = None,
    negative: Annotated[str, typer.Option("--negative", help="The negative prompt.")] = "",
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps; the model's default without it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise, plus one for each further prompt.")] = 0,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the model's default.")] = None,
    latent_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Latent height and width; the checkpoint's own without it.")
    ] = None,
    sensitivity_prompts: Annotated[
        int | None, typer.Option(metavar="N", help="Prompts to take sensitivities from; all without it.")
    ] = None,
    probes: Annotated[int, typer.Option(metavar="N", help="Backward passes through each of those runs.")] = 6,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Plot sizes and signals (more runs).")
    ] = None,
    json_output: options.JsonOption = False,
) -> None:
    """Search how many bits each layer needs: the smallest recipe for a signal, or the best one for a size.

    The signal is the PSNR of the latents that real prompts end with, against those of the weights as they are.
    """
    import sfmobile
    from sfmobile.recipes.plot import check_plotting, plot_sizes

    check_writable(output)
    if plot is not None:
        check_writable(plot)
        check_plotting()
    with console.watching() as observer:
        found = sfmobile.search_recipe(
            source,
            signal=signal,
            same_signal_as=same_signal_as,
            same_size_as=same_size_as,
            average_bits=average_bits,
            component=component or (),
            target=target,
            group_size=group_size or (),
            prompt=prompt or (),
            negative=negative,
            steps=steps,
            seed=seed,
            guidance=guidance,
            latent_size=options.parse_optional_size(latent_size),
            sensitivity_prompts=sensitivity_prompts,
            probes=probes,
            curve=plot is not None,
            observer=observer,
        )
    found.recipe.write(output)
    if plot is not None:
        plot_sizes(found.results, plot, found.title)
        console.note(f"Plot: {plot}")
    if json_output:
        console.print_json({"recipe": str(output), "components": found.record()})
    else:
        console.print_parts(*found.tables())
        console.note(f"Recipe: {output} (sfmobile compress apply SOURCE --recipe {output} -o BUNDLE)")


def apply(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE|SOURCE", help="A bundle to store anew, or a checkpoint to export.")
    ],
    recipe: Annotated[Path, typer.Option("--recipe", metavar="FILE", help="From `sfmobile compress search`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle directory to make.")],
    source: options.SourceOption = None,
    target: Annotated[
        Target | None, typer.Option(help="The earliest system to run on; the bundle's, or ios17.")
    ] = None,
    golden: Annotated[bool, typer.Option("--golden/--no-golden", help="Record a reference run for tests.")] = True,
    json_output: options.JsonOption = False,
) -> None:
    """Store a bundle's weights, or export a checkpoint, as a recipe says.

    A bundle is built again from its checkpoint with the options it was made with: lookup tables made from lookup
    tables would add up their errors.
    """
    import sfmobile

    with console.watching() as observer:
        made = sfmobile.compress(
            bundle, output, recipe=recipe, source=source, target=target, golden=golden, observer=observer
        )
    export.show(made, json_output)


def check_writable(path: Path) -> None:
    """Raise `UsageError` at once if a file can't be written where a long search would write it."""
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"'{path}' is a directory; name a file.")
    if not folder.is_dir():
        raise UsageError(f"'{folder}' doesn't exist; make it, or write elsewhere.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"'{path}' may not be written; write elsewhere.")
