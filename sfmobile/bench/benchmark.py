"""A bundle measured: every component in a process of its own, then the whole loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bench.header import bundle_reference, producer, runtime_record
from sfmobile.bench.isolation import run_isolated
from sfmobile.bench.latency import measure_component, measure_loop
from sfmobile.bench.machine import describe_machine
from sfmobile.bench.records import now
from sfmobile.bench.report import BenchReport, ConditionsRecord
from sfmobile.errors import UsageError
from sfmobile.observer import Observer
from sfmobile.runtime.opening import RuntimeRequest, open_bundle
from sfmobile.sampling.guidance import check_scale
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.samplers.named import named
from sfmobile.sampling.samplers.starting import start

if TYPE_CHECKING:
    from sfmobile.bench.report import ComponentLatency, LoopLatency
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeChoice

DEFAULT_PROMPT = "a red apple"


def bench(
    bundle: Bundle | Path | str,
    *,
    predictions: int = 20,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    runtime: RuntimeChoice = "auto",
    precision: Precision = "fp32",
    compute_unit: ComputeUnit | None = None,
    source: Checkpoint | Path | str | None = None,
    latent_size: tuple[int, int] | None = None,
    guidance_batch: int | None = None,
    loop: bool = True,
    observer: Observer | None = None,
) -> BenchReport:
    """Measure each component in a process of its own: cold and warm load, first prediction, median, p95, peak memory.

    Figures are this machine's, with the runtime named; those of mil, torch and onnx say nothing about a phone's.

    predictions: per component, after the first. loop: also measure text to picture once, with `steps`, `guidance` and
    `sampler` (by default the model's). runtime, precision, compute_unit, source: what executes the components, see
    `sfmobile.Pipeline`. latent_size (height, width), guidance_batch: of a bundle that was exported for several.

    Raises `UsageError` for options that make no sense, `ArtifactError` for a bundle that isn't whole,
    `UnavailableError` if this machine can't, or if it kills the measuring process for its memory.
    """
    if predictions < 1:
        raise UsageError(f"{predictions} predictions measure nothing; expected 1 or more.")
    observer = observer or Observer()
    opened = open_bundle(bundle, latent_size, guidance_batch, observer)
    request = RuntimeRequest.of(opened, runtime, precision, compute_unit, source, observer)
    count = opened.manifest.pipeline.default_steps if steps is None else steps
    own = opened.manifest.sampler
    start(own if sampler is None else named(own, sampler), count)
    if guidance is not None:
        check_scale(guidance)
    prompt = DEFAULT_PROMPT if opened.manifest.golden is None else opened.manifest.golden.prompt
    drawing = Request(prompt, steps=count, guidance_scale=guidance, sampler=sampler) if loop else None
    return measure(opened, request, predictions, drawing, observer)


def measure(
    bundle: Bundle, request: RuntimeRequest, predictions: int, drawing: Request | None, observer: Observer
) -> BenchReport:
    """Measure every component, then the loop if there is something to draw and all components are there."""
    components: dict[ComponentName, ComponentLatency] = {}
    measured_loop: LoopLatency | None = None
    executed_by = runtime_record(request, request.open_on(bundle))
    load_before = load_average()
    for name in bundle.manifest.components:
        observer.start(f"Measuring {name}", predictions + 3)
        components[name] = run_isolated(
            measure_component,
            request,
            name,
            predictions,
            advance=observer.advance,
            what=f"Measuring the {name}",
        )
    if drawing is not None and bundle.manifest.can_draw:
        own = bundle.manifest.sampler
        record = own if drawing.sampler is None else named(own, drawing.sampler)
        calls = start(record, drawing.steps or bundle.manifest.pipeline.default_steps).calls
        observer.start("Measuring the whole loop", len(bundle.manifest.components) + calls + 1)
        measured_loop = run_isolated(
            measure_loop, request, drawing, advance=observer.advance, what="Measuring the whole loop"
        )
    return BenchReport(
        created_at=now(),
        producer=producer(),
        machine=describe_machine(),
        conditions=ConditionsRecord(load_average_before=load_before, load_average_after=load_average()),
        runtime=executed_by,
        bundle=bundle_reference(bundle),
        components=components,
        loop=measured_loop,
    )


def load_average() -> float | None:
    """One-minute load average, where the system keeps one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
