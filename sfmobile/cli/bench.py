"""`sfmobile bench`: latency and memory per component and of the whole loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, engine

if TYPE_CHECKING:
    from sfmobile.bench.latency import EngineRequest
    from sfmobile.bench.report import BenchReport, ComponentLatency, LoopLatency
    from sfmobile.bundle.directory import Bundle
    from sfmobile.sampling.pipeline import Request

REPORT_FILE = "bench.json"


def bench(
    bundle: engine.BundleArgument,
    predictions: Annotated[
        int, typer.Option("--predictions", "-n", min=1, help="Predictions per component after the first.")
    ] = 20,
    steps: Annotated[int | None, typer.Option("--steps", help="DDIM steps of the whole loop.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale of the whole loop.")] = None,
    runtime: engine.RuntimeOption = engine.RuntimeChoice.auto,
    precision: engine.PrecisionOption = engine.PrecisionChoice.fp32,
    compute_unit: engine.UnitOption = None,
    source: engine.SourceOption = None,
    latent_size: engine.LatentSizeOption = None,
    guidance_batch: engine.GuidanceBatchOption = None,
    loop: Annotated[bool, typer.Option("--loop/--no-loop", help="Also measure the whole loop.")] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE.json", help="The report; without it reports/bench.json of the bundle."
        ),
    ] = None,
    json_output: engine.JsonOption = False,
) -> None:
    """Measure each component in a process of its own: cold and warm load, first prediction, median, p95, peak memory.

    Figures are this machine's, with the runtime named; those of mil, torch and onnx say nothing about a phone's.
    """
    from sfmobile.bench.report import write_report
    from sfmobile.sampling.ddim import DDIM
    from sfmobile.sampling.guidance import check_scale
    from sfmobile.sampling.pipeline import Request

    opened = engine.open_bundle(bundle, latent_size, guidance_batch)
    chosen = engine.request_engine(opened, runtime, precision, compute_unit, source)
    count = opened.manifest.scheduler.default_steps if steps is None else steps
    DDIM(opened.manifest.scheduler).timesteps(count)
    if guidance is not None:
        check_scale(guidance)
    prompt = "a red apple" if opened.manifest.golden is None else opened.manifest.golden.prompt
    drawing = Request(prompt, steps=count, guidance_scale=guidance) if loop else None
    report = measure(opened, chosen, predictions, drawing)
    written = output if output is not None else opened.reports_dir / REPORT_FILE
    if json_output:
        console.print_json(report)
    else:
        print_report(report)
    # Last: figures that took minutes are not lost to a folder that can't be written.
    write_report(report, written)
    console.note(f"Report: {written}")


def measure(bundle: Bundle, chosen: EngineRequest, predictions: int, drawing: Request | None) -> BenchReport:
    """Measure every component, then the loop if there is something to draw and all components are there."""
    from sfmobile.bench.isolation import run_isolated
    from sfmobile.bench.latency import measure_component, measure_loop
    from sfmobile.bench.machine import describe_machine
    from sfmobile.bench.report import BenchReport, ConditionsRecord, now
    from sfmobile.bundle.manifest import COMPONENTS, ComponentName

    components: dict[ComponentName, ComponentLatency] = {}
    measured_loop: LoopLatency | None = None
    described = chosen.record(chosen.open_on(bundle))
    load_before = load_average()
    with console.progress() as bars:
        for name in bundle.manifest.components:
            task = bars.add_task(f"Measuring {name}", total=predictions + 3)
            components[name] = run_isolated(
                measure_component,
                chosen,
                name,
                predictions,
                advance=lambda done, task=task: bars.advance(task, done),  # type: ignore[misc]
                what=f"Measuring the {name}",
            )
        if drawing is not None and set(bundle.manifest.components) == set(COMPONENTS):
            task = bars.add_task("Measuring the whole loop", total=len(COMPONENTS) + (drawing.steps or 0) + 1)
            measured_loop = run_isolated(
                measure_loop,
                chosen,
                drawing,
                advance=lambda done: bars.advance(task, done),
                what="Measuring the whole loop",
            )
    return BenchReport(
        created_at=now(),
        producer=engine.producer(),
        machine=describe_machine(),
        conditions=ConditionsRecord(load_average_before=load_before, load_average_after=load_average()),
        runtime=described,
        bundle=engine.reference(bundle),
        components=components,
        loop=measured_loop,
    )


def load_average() -> float | None:
    """One-minute load average, where the system keeps one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def print_report(report: BenchReport) -> None:
    """The figures for people, and what they were measured on."""
    machine, conditions = report.machine, report.conditions
    load = "" if conditions.load_average_before is None else f", load {conditions.load_average_before:.1f} before"
    console.print_table(
        f"{report.bundle.name} on {report.runtime.description}",
        ("component", "cold load", "warm load", "first", "median", "p95", "peak memory", "of it added", "package"),
        (
            (
                name,
                milliseconds(one.cold_load_ms),
                milliseconds(one.warm_load_ms),
                milliseconds(one.first_prediction_ms),
                milliseconds(one.median_ms),
                milliseconds(one.p95_ms),
                console.in_bytes(one.memory.peak_bytes if one.memory else None),
                console.in_bytes(one.memory.added_bytes if one.memory else None),
                console.in_bytes(one.package_bytes),
            )
            for name, one in report.components.items()
        ),
        caption=f"{machine.processor}, {machine.cores} cores, {machine.os}{load}",
    )
    loop = report.loop
    if loop is None:
        return
    console.print_table(
        f"Text to picture: {loop.steps} steps, guidance {loop.guidance_scale:g}, {loop.unet_calls} UNet calls",
        ("text encoder", "a step", "all steps", "decoder", "end to end", "peak memory"),
        [
            (
                milliseconds(loop.text_encoder_ms),
                milliseconds(sum(loop.steps_ms) / loop.steps),
                milliseconds(sum(loop.steps_ms)),
                milliseconds(loop.decoder_ms),
                milliseconds(loop.end_to_end_ms),
                console.in_bytes(loop.memory.peak_bytes if loop.memory else None),
            )
        ],
        text_columns=(),
        caption="Components loaded and run once before.",
    )


def milliseconds(value: float) -> str:
    """A duration in milliseconds for people."""
    return console.in_milliseconds(value / 1e3)
