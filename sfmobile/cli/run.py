"""`sfmobile run`: any Core ML model, once, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import GateError, UsageError
from sfmobile.runtime.choices import MODEL_RUNTIMES, ModelRuntime


def run(
    package: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An .mlpackage, an .mlmodel or an .mlmodelc, whoever made it.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="A picture, an .npy file, a number or a list such as [1,2]; once for each input.",
        ),
    ] = None,
    precision: options.PrecisionOption = "fp32",
    function: Annotated[str | None, typer.Option("--function", help="One function of a multifunction package.")] = None,
    runtime: Annotated[
        ModelRuntime,
        typer.Option("--runtime", help=f"What executes it: {', '.join(MODEL_RUNTIMES)}; coreml on a Mac only."),
    ] = "mil",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write the outputs here: .npy, .png, .json.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE.npz", help="What another implementation gave, by output: PSNR."),
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option("--min-psnr", metavar="DB", help="With --compare: exit with 1 below.")
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Fit pictures to the declared size instead of refusing others.")
    ] = False,
    json_output: options.JsonOption = False,
) -> None:
    """Run a model once and show what it gives, as Core ML on a Mac would: pictures, defaults, ranges, classes.

    A model with states starts from zeros. Milliseconds of the mil runtime say nothing about a phone.
    """
    from sfmobile.runtime.run import run_model

    if min_psnr is not None and compare is None:
        raise UsageError("--min-psnr needs what to compare with; pass --compare FILE.npz.")
    found = run_model(
        package,
        inputs or (),
        precision=precision,
        function=function,
        runtime=runtime,
        resize=resize,
        compare=compare,
    )
    if output is not None:
        for path in found.save(output):
            console.note(f"Wrote {path}")
    if json_output:
        console.print_json(found.record())
    else:
        console.print_parts(*found.parts())
    if min_psnr is not None and found.worst() < min_psnr:
        worst = min(found.psnr, key=lambda name: found.psnr[name])
        raise GateError(
            f"Output '{worst}' of {found.model} is {found.worst():.1f} dB from '{compare}'; expected {min_psnr:g} dB "
            "or more."
        )
