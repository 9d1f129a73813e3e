"""`sfmobile verify`: the exported components against the networks they came from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfmobile.cli import console, engine
from sfmobile.errors import GateError

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.profile.latency import EngineRequest
    from sfmobile.profile.recording import Call
    from sfmobile.profile.report import EvaluationAgreement, OperationDivergence, Precision, VerifyReport
    from sfmobile.profile.verification import Gates
    from sfmobile.sampling.pipeline import Request

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
    """
    from sfmobile.profile.report import write_report
    from sfmobile.profile.verification import Gates
    from sfmobile.sampling.pipeline import Request

    opened = engine.open_bundle(bundle)
    checkpoint = engine.find_source(opened, source)
    requests = [Request(text, negative, seed, steps, guidance) for text in prompt or DEFAULT_PROMPTS]
    wanted = precision or [engine.PrecisionChoice.fp32, engine.PrecisionChoice.fp16]
    if engine.choose_engine(runtime, opened) != "mil":
        wanted = [engine.PrecisionChoice.fp32]
    engines = [engine.request_engine(opened, runtime, choice, compute_unit, source) for choice in wanted]
    report = compare(opened, checkpoint, engines, requests, Gates(gate, picture_gate))
    written = output if output is not None else opened.reports_dir / REPORT_FILE
    write_report(report, written)
    if json_output:
        console.print_json(report)
    else:
        print_report(report)
    console.note(f"Report: {written}")
    if not report.passed:
        raise GateError(f"'{bundle}' is under its gate: {'; '.join(failures(report))}.")


def compare(
    bundle: Bundle, checkpoint: Checkpoint, engines: list[EngineRequest], requests: list[Request], gates: Gates
) -> VerifyReport:
    """Run the reference, then every evaluation."""
    from sfmobile.profile.latency import EngineRequest
    from sfmobile.profile.machine import describe_machine
    from sfmobile.profile.report import VerifyReport, now
    from sfmobile.profile.verification import evaluate, evaluation_work, record_reference, reference_work

    manifest = bundle.manifest
    first = requests[0]
    steps = manifest.scheduler.default_steps if first.steps is None else first.steps
    scale = manifest.guidance.default_scale if first.guidance_scale is None else first.guidance_scale
    torch_engine = EngineRequest(bundle.root, "torch", "fp32", source=checkpoint.root)
    torch_runtime = torch_engine.open_on(bundle)
    evaluations: list[EvaluationAgreement] = []
    with console.progress() as bars:
        task = bars.add_task("Reference (torch fp32)", total=reference_work(len(requests), steps))
        reference = record_reference(bundle, torch_runtime, requests, partial(bars.advance, task))
        for chosen in engines:
            evaluated = chosen.open_on(bundle)
            described = chosen.record(evaluated)
            task = bars.add_task(described.description, total=evaluation_work(reference, steps))
            diagnose = partial(find_fault, bundle, checkpoint, chosen.precision or "fp32", gates)
            evaluations.append(
                evaluate(
                    bundle,
                    evaluated,
                    described,
                    reference,
                    gates,
                    diagnose if chosen.engine == "mil" else None,
                    partial(bars.advance, task),
                )
            )
    return VerifyReport(
        created_at=now(),
        producer=engine.producer(),
        machine=describe_machine(),
        bundle=engine.reference(bundle),
        reference=torch_engine.record(torch_runtime),
        prompts=tuple(request.prompt for request in requests),
        negative_prompt=first.negative_prompt,
        seed=first.seed,
        steps=steps,
        guidance_scale=scale,
        evaluations=tuple(evaluations),
        passed=all(evaluation.passed for evaluation in evaluations),
    )


def find_fault(
    bundle: Bundle, checkpoint: Checkpoint, precision: Precision, gates: Gates, name: ComponentName, call: Call
) -> OperationDivergence | None:
    """The first operation at which a component's error appears."""
    import torch

    from sfmobile.nets.attention import set_attention_form
    from sfmobile.profile.divergence import find_divergence
    from sfmobile.runtime.mil.program import load_program

    record = bundle.manifest.components[name]
    network = checkpoint.load(name, torch.float32)
    set_attention_form(network, record.attention)
    program = load_program(bundle.package(name), record.function)
    return find_divergence(program, network, call, precision, gates.of(record))


def failures(report: VerifyReport) -> Iterator[str]:
    """What is under its gate, in words."""
    from sfmobile.profile.comparison import runtime_label
    from sfmobile.profile.signal import decibels

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
    """How close the picture is, or that there is none."""
    from sfmobile.profile.signal import decibels

    return "none: NaN or infinity on the way" if evaluation.picture is None else decibels(evaluation.picture)


def print_report(report: VerifyReport) -> None:
    """The figures for people."""
    from sfmobile.profile.comparison import runtime_label
    from sfmobile.profile.signal import decibels

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
    from sfmobile.profile.signal import decibels

    weight = "" if fault.weight_psnr_db is None else f"; its stored weight has {fault.weight_psnr_db:.1f} dB"
    before = f"; good until {fault.previous}" if fault.previous else ""
    return (
        f"the error appears at {place(fault)}: {decibels(fault.agreement)} against {fault.reference}{weight}{before}."
    )
