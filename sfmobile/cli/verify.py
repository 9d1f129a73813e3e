"""`sfmobile verify`: the exported components against the networks they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import GateError
from sfmobile.runtime.choices import PRECISIONS

REPORT_FILE = "verify.json"


def verify(
    bundle: options.BundleArgument,
    source: options.SourceOption = None,
    gate: Annotated[
        float | None,
        typer.Option("--gate", metavar="DB", help="PSNR of every component; by default 35 if palettized, else 60."),
    ] = None,
    picture_gate: Annotated[
        float | None, typer.Option("--picture-gate", metavar="DB", help="PSNR of the final picture; none without it.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt to run; may be repeated. Two of ours without it.")
    ] = None,
    negative: Annotated[str, typer.Option("--negative", help="The negative prompt.")] = "",
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps; the model's default without it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.")] = 0,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the model's default.")] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", metavar="fp32|fp16", help="Only this evaluation; both without it."),
    ] = None,
    runtime: options.RuntimeOption = "mil",
    compute_unit: options.UnitOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The report; reports/verify.json of the bundle by default."
        ),
    ] = None,
    json_output: options.JsonOption = False,
) -> None:
    """Compare every component with its PyTorch network, on the pipeline's own inputs; exit with 1 under the gate.

    Each component is fed what the reference was fed: text through the tokenizer, latents of the real trajectory.
    Without the checkpoint, the vectors recorded at export are the reference.
    """
    import sfmobile
    from sfmobile.bench.report import write_report
    from sfmobile.bundle.directory import reports_folder

    written = output if output is not None else reports_folder(bundle) / REPORT_FILE
    with console.watching() as observer:
        report = sfmobile.verify(
            bundle,
            source=source,
            gate=gate,
            picture_gate=picture_gate,
            prompt=prompt or (),
            negative=negative,
            steps=steps,
            seed=seed,
            guidance=guidance,
            precision=options.parse_choices("--precision", precision, PRECISIONS),
            runtime=runtime,
            compute_unit=compute_unit,
            observer=observer,
        )
    if json_output:
        console.print_json(report)
    else:
        console.print_parts(report.table(), *report.faults())
    # Last: figures that took minutes are not lost to a folder that can't be written.
    write_report(report, written)
    console.note(f"Report: {written}")
    if not report.passed:
        raise GateError(f"'{bundle}' is under its gate: {'; '.join(report.failures())}.")
