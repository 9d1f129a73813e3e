"""`sfmobile verify`: the exported components against the networks they came from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, engine
from sfmobile.errors import GateError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from sfmobile.bench.latency import EngineRequest
    from sfmobile.bench.report import (
        EvaluationAgreement,
        OperationDivergence,
        Precision,
        RuntimeRecord,
        VerifyReport,
    )
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.sampling.pipeline import Request
    from sfmobile.verify.recording import Call
    from sfmobile.verify.verification import Gates, Reference

REPORT_FILE = "verify.json"
DEFAULT_PROMPTS = ("a red apple", "a yellow star on a blue background, flat icon")


def verify(
    bundle: engine.BundleArgument,
    source: engine.SourceOption = None,
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
    steps: Annotated[int | None, typer.Option("--steps", help="DDIM steps; the model's default without it.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.")] = 0,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the model's default.")] = None,
    precision: Annotated[
        list[engine.PrecisionChoice] | None,
        typer.Option("--precision", help="Only this evaluation; fp32 and fp16 without it."),
    ] = None,
    runtime: engine.RuntimeOption = engine.RuntimeChoice.mil,
    compute_unit: engine.UnitOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The report; reports/verify.json of the bundle by default."
        ),
    ] = None,
    json_output: engine.JsonOption = False,
) -> None:
    """Compare every component with its PyTorch network, on the pipeline's own inputs; exit with 1 under the gate.

    Each component is fed what the reference was fed: text through the tokenizer, latents of the real trajectory.
    Without the checkpoint, the vectors recorded at export are the reference.
    """
    from sfmobile.bench.report import write_report
    from sfmobile.sampling.pipeline import Request
    from sfmobile.verify.verification import Gates

    opened = engine.open_bundle(bundle)
    engines = choose_evaluations(opened, runtime, precision or [], compute_unit, source)
    gates = Gates(gate, picture_gate)
    if engine.has_source(opened, source):
        checkpoint = engine.find_source(opened, source)
        requests = [Request(text, negative, seed, steps, guidance) for text in prompt or DEFAULT_PROMPTS]
        report = compare(opened, checkpoint, engines, requests, gates)
    else:
        if prompt or negative or steps is not None or seed or guidance is not None:
            raise UsageError("A run of your own needs the checkpoint as its reference; name it with --source.")
        console.note(f"The checkpoint '{opened.manifest.source.id}' isn't here: comparing with the golden vectors.")
        report = compare(opened, None, engines, [], gates)
    written = output if output is not None else opened.reports_dir / REPORT_FILE
    if json_output:
        console.print_json(report)
    else:
        print_report(report)
    # Last: figures that took minutes are not lost to a folder that can't be written.
    write_report(report, written)
    console.note(f"Report: {written}")
    if not report.passed:
        raise GateError(f"'{bundle}' is under its gate: {'; '.join(failures(report))}.")


def choose_evaluations(
    bundle: Bundle,
    runtime: engine.RuntimeChoice,
    precisions: list[engine.PrecisionChoice],
    unit: engine.UnitChoice | None,
    source: Path | None,
) -> list[EngineRequest]:
    """The evaluations to compare: both precisions on the mil runtime, the only one on any other."""
    wanted = precisions or [engine.PrecisionChoice.fp32, engine.PrecisionChoice.fp16]
    if not precisions and engine.choose_engine(runtime, bundle) != "mil":
        wanted = [engine.PrecisionChoice.fp32]
    return [engine.request_engine(bundle, runtime, choice, unit, source) for choice in wanted]


def compare(
    bundle: Bundle, checkpoint: Checkpoint | None, engines: list[EngineRequest], requests: list[Request], gates: Gates
) -> VerifyReport:
    """Run the reference on `requests` (or take the golden vectors without a checkpoint), then every evaluation."""
    from sfmobile.bench.machine import describe_machine
    from sfmobile.bench.report import VerifyReport, now
    from sfmobile.verify.verification import evaluate, evaluation_work

    evaluations: list[EvaluationAgreement] = []
    with console.progress() as bars:
        reference, described = make_reference(bundle, checkpoint, requests, bars)
        for chosen in engines:
            runtime = chosen.open_on(bundle)
            record = chosen.record(runtime)
            task = bars.add_task(record.description, total=evaluation_work(bundle, reference))
            diagnose = partial(find_fault, bundle, checkpoint, chosen.precision or "fp32", gates)
            traced = diagnose if chosen.engine == "mil" else None
            advance = partial(bars.advance, task)
            evaluations.append(evaluate(bundle, runtime, record, reference, gates, traced, advance))
    first = reference.requests[0]
    manifest = bundle.manifest
    return VerifyReport(
        created_at=now(),
        producer=engine.producer(),
        machine=describe_machine(),
        bundle=engine.reference(bundle),
        reference=described,
        prompts=tuple(request.prompt for request in reference.requests),
        negative_prompt=first.negative_prompt,
        seed=first.seed,
        steps=manifest.scheduler.default_steps if first.steps is None else first.steps,
        guidance_scale=manifest.guidance.default_scale if first.guidance_scale is None else first.guidance_scale,
        evaluations=tuple(evaluations),
        passed=all(evaluation.passed for evaluation in evaluations),
    )


def make_reference(
    bundle: Bundle, checkpoint: Checkpoint | None, requests: list[Request], bars: Progress
) -> tuple[Reference, RuntimeRecord]:
    """What everything is compared with, and what made it."""
    from sfmobile.bench.latency import EngineRequest
    from sfmobile.bench.report import RuntimeRecord
    from sfmobile.verify.verification import golden_reference, record_reference, reference_work

    if checkpoint is None:
        described = RuntimeRecord(engine="torch", description="golden vectors (torch fp32)", precision="fp32")
        return golden_reference(bundle), described
    chosen = EngineRequest(bundle.root, "torch", "fp32", source=checkpoint.root)
    runtime = chosen.open_on(bundle)
    task = bars.add_task("Reference (torch fp32)", total=reference_work(bundle, requests))
    return record_reference(bundle, runtime, requests, partial(bars.advance, task)), chosen.record(runtime)


def find_fault(
    bundle: Bundle, checkpoint: Checkpoint | None, precision: Precision, gates: Gates, name: ComponentName, call: Call
) -> OperationDivergence | None:
    """The first operation at which a component's error appears."""
    import torch

    from sfmobile.nets.attention import set_attention_form
    from sfmobile.verify.divergence import component_program, find_divergence

    record = bundle.manifest.components[name]
    network = None if checkpoint is None else checkpoint.load(name, torch.float32)
    if network is not None:
        set_attention_form(network, record.attention)
    program = component_program(bundle, name)
    return find_divergence(program, network, call, precision, gates.of(record))


def failures(report: VerifyReport) -> Iterator[str]:
    """What is under its gate, in words."""
    from sfmobile.bench.comparison import runtime_label
    from sfmobile.verify.signal import decibels

    for evaluation in report.evaluations:
        label = runtime_label(evaluation.runtime)
        for name, component in evaluation.components.items():
            if not component.passed:
                fault = component.first_divergence
                where = "" if fault is None else f", first at {place(fault)}"
                yield f"{name} {decibels(component.worst)} of {component.gate_db:g} dB in {label}{where}"
        if not evaluation.picture_passed:
            yield f"picture {picture_psnr(evaluation)} of {evaluation.picture_gate_db:g} dB in {label}"


def place(fault: OperationDivergence) -> str:
    """An operation of a program."""
    return f"operation {fault.position + 1} of {fault.operations}, {fault.op} '{fault.name}'"


def picture_psnr(evaluation: EvaluationAgreement) -> str:
    """How close the picture is."""
    from sfmobile.verify.signal import decibels

    return "not compared" if evaluation.picture is None else decibels(evaluation.picture)


def print_report(report: VerifyReport) -> None:
    """The figures for people."""
    from sfmobile.bench.comparison import runtime_label
    from sfmobile.verify.signal import decibels

    rows: list[tuple[str, ...]] = []
    for evaluation in report.evaluations:
        label = runtime_label(evaluation.runtime)
        for name, component in evaluation.components.items():
            gate, inputs = f"{component.gate_db:g} dB", f"{len(component.samples)} inputs"
            rows.append((label, name, inputs, decibels(component.worst), gate, "ok" if component.passed else "FAILED"))
        gated = evaluation.picture_gate_db is not None
        gate = f"{evaluation.picture_gate_db:g} dB" if gated else "-"
        verdict = ("ok" if evaluation.picture_passed else "FAILED") if gated else "not gated"
        rows.append((label, "picture", f"{report.steps} steps", picture_psnr(evaluation), gate, verdict))
    console.print_table(
        f"{report.bundle.name} against {report.reference.description}",
        ("evaluation", "component", "compared", "worst PSNR", "gate", ""),
        rows,
        text_columns=(0, 1, 2, 5),
        caption=f"{len(report.prompts)} prompts, seed {report.seed}, guidance {report.guidance_scale:g}; "
        f"{report.machine.processor}, {report.machine.os}",
    )
    for evaluation in report.evaluations:
        for name, component in evaluation.components.items():
            if component.first_divergence is not None:
                console.print_text(
                    f"{runtime_label(evaluation.runtime)} {name}: {describe(component.first_divergence)}"
                )


def describe(fault: OperationDivergence) -> str:
    """Where an error appears, against what, and what still is good."""
    from sfmobile.verify.signal import decibels

    weight = "" if fault.weight_psnr_db is None else f"; its stored weight has {fault.weight_psnr_db:.1f} dB"
    before = f"; good until {fault.previous}" if fault.previous else ""
    return (
        f"the error appears at {place(fault)}: {decibels(fault.agreement)} against {fault.reference}{weight}{before}."
    )
