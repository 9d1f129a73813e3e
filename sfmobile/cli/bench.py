"""`sfmobile bench`: latency and memory per component and of the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfmobile.cli import console, options

REPORT_FILE = "bench.json"


def bench(
    bundle: options.BundleArgument,
    predictions: Annotated[
        int, typer.Option("--predictions", "-n", min=1, help="Predictions per component after the first.")
    ] = 20,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps of the whole loop.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale of the whole loop.")] = None,
    sampler: options.SamplerOption = None,
    runtime: options.RuntimeOption = "auto",
    precision: options.PrecisionOption = "fp32",
    compute_unit: options.UnitOption = None,
    source: options.SourceOption = None,
    size: options.BundleSizeOption = None,
    latent_size: options.LatentSizeOption = None,
    guidance_batch: options.GuidanceBatchOption = None,
    loop: Annotated[bool, typer.Option("--loop/--no-loop", help="Also measure the whole loop.")] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE.json", help="The report; without it reports/bench.json of the bundle."
        ),
    ] = None,
    json_output: options.JsonOption = False,
) -> None:
    """Measure each component in a process of its own: cold and warm load, first prediction, median, p95, peak memory.

    Figures are this machine's, with the runtime named; those of mil, torch and onnx say nothing about a phone's.
    """
    import sfmobile
    from sfmobile.bench.report import write_report
    from sfmobile.bundle.directory import reports_folder
    from sfmobile.files import require_writable

    written = output if output is not None else reports_folder(bundle) / REPORT_FILE
    if output is not None or bundle.is_dir():
        require_writable(written)
    with console.watching() as observer:
        report = sfmobile.bench(
            bundle,
            predictions=predictions,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            runtime=runtime,
            precision=precision,
            compute_unit=compute_unit,
            source=source,
            latent_size=options.bundle_latents(bundle, size, latent_size),
            guidance_batch=options.parse_optional_batch(guidance_batch),
            loop=loop,
            observer=observer,
        )
    if json_output:
        console.print_json(report)
    else:
        console.print_parts(*report.tables())
    # Last: figures that took minutes are not lost to a folder that can't be written.
    write_report(report, written)
    console.note(f"Report: {written}")
