"""`sfmobile verify`: the exported components against the networks they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options
from sfmobile.errors import GateError
from sfmobile.runtime.choices import PRECISIONS

REPORT_FILE = "verify.json"
REFERENCE_METAVAR = "nets|golden|diffusers|coreai"


def verify(
    bundle: options.BundleArgument,
    source: options.SourceOption = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar=REFERENCE_METAVAR,
            help="Compare with this; may be repeated. Without it all that are here and fit in memory but coreai.",
        ),
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(
            "--component", metavar=options.COMPONENT_METAVAR, help="Only this one; may be repeated. All without it."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One prompt, two steps, one input each; the report says what is left out.")
    ] = False,
    gate: Annotated[
        float | None,
        typer.Option("--gate", metavar="DB", help="PSNR of every component; by default 35 if palettized, else 60."),
    ] = None,
    picture_gate: Annotated[
        float | None,
        typer.Option(
            "--picture-gate", metavar="DB", help="PSNR of the final picture; what --gate and guidance leave without it."
        ),
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
    sampler: options.SamplerOption = None,
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
    """Is BUNDLE what it claims to be, what did it lose, what does it round, was its checkpoint read right? Exit with 1
    if anything is wrong or under its gate.

    Stored weights, programs and constants are compared with the checkpoint's, every component with its PyTorch network
    on the pipeline's own inputs, the loop at every step. Without the checkpoint, the vectors recorded at export are the
    reference.
    """
    import sfmobile
    from sfmobile.bench.report import write_report
    from sfmobile.bundle.directory import reports_folder
    from sfmobile.files import require_writable
    from sfmobile.verify.references import REFERENCES

    written = output if output is not None else reports_folder(bundle) / REPORT_FILE
    if output is not None or bundle.is_dir():
        require_writable(written)
    with console.watching() as observer:
        report = sfmobile.verify(
            bundle,
            source=source,
            reference=options.parse_choices("--reference", reference, tuple(REFERENCES)),
            component=component or (),
            quick=quick,
            gate=gate,
            picture_gate=picture_gate,
            prompt=prompt or (),
            negative=negative,
            steps=steps,
            seed=seed,
            guidance=guidance,
            sampler=sampler,
            precision=options.parse_choices("--precision", precision, PRECISIONS),
            runtime=runtime,
            compute_unit=compute_unit,
            observer=observer,
        )
    if json_output:
        console.print_json(report)
    else:
        console.print_parts(report.verdict(), *report.tables(), *report.remarks(), *report.faults())
    # Last: figures that took minutes are not lost to a folder that can't be written.
    write_report(report, written)
    console.note(f"Report: {written}")
    if not report.passed:
        raise GateError(f"'{bundle}' is under its gate: {'; '.join(report.failures())}.")
