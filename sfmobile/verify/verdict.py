"""A bundle's verdict: every component, in every evaluation, against the networks it came from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bench.header import bundle_reference, producer, runtime_record
from sfmobile.bench.machine import describe_machine
from sfmobile.bench.report import (
    EvaluationAgreement,
    OperationDivergence,
    ReadingAgreement,
    RuntimeRecord,
    SampleAgreement,
    VerifyReport,
    now,
)
from sfmobile.errors import UsageError
from sfmobile.observer import Observer
from sfmobile.runtime.opening import RuntimeRequest, choose_runtime, has_source, open_bundle, open_source
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.verify.diffusers_reference import READING_GATE_DB, compare_reading, why_not
from sfmobile.verify.exactness import prove_exact
from sfmobile.verify.verification import (
    Gates,
    Reference,
    evaluate,
    evaluation_work,
    golden_reference,
    record_reference,
    reference_work,
)

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeChoice
    from sfmobile.verify.recording import Call

DEFAULT_PROMPTS = ("a red apple", "a yellow star on a blue background, flat icon")


def verify(
    bundle: Bundle | Path | str,
    *,
    source: Checkpoint | Path | str | None = None,
    gate: float | None = None,
    picture_gate: float | None = None,
    prompt: str | Sequence[str] = (),
    negative: str = "",
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    precision: Precision | Sequence[Precision] = (),
    runtime: RuntimeChoice = "mil",
    compute_unit: ComputeUnit | None = None,
    observer: Observer | None = None,
) -> VerifyReport:
    """Prove what `bundle` is, and measure what it lost: its result says `passed`, `failures()` and what is at fault.

    Exact: every stored weight, the programs in fp32 with the very weights they store, and the manifest's constants,
    against the checkpoint. Read: the checkpoint as we read it against diffusers' own pipeline, where that can run it.
    Lost: every component against its PyTorch network with the source's weights, fed what the reference was fed.
    Nothing under its gate raises.

    source: the checkpoint the bundle was exported from, if it isn't where it was; where there is none, the vectors
    recorded at export are the reference. gate: PSNR in dB of every component, by default 35 if palettized, else 60;
    picture_gate: of the final picture, by default none. prompt (two of ours without it), negative, steps, seed,
    guidance: the runs that are compared. runtime: what executes the bundle; precision: only these evaluations of it, by
    default fp32 and fp16 on mil; compute_unit: of the coreml runtime.

    Raises `UsageError` for options that make no sense, `ArtifactError` for a bundle that isn't whole or a checkpoint
    that isn't its own.
    """
    observer = observer or Observer()
    opened = open_bundle(bundle, observer=observer)
    requests = choose_evaluations(opened, runtime, precision, compute_unit, source, observer)
    gates = Gates(gate, picture_gate)
    if has_source(opened, source):
        checkpoint = open_source(opened, source, observer)
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        drawings = [Request(text, negative, seed, steps, guidance) for text in prompts or DEFAULT_PROMPTS]
        return compare(opened, checkpoint, requests, drawings, gates, observer)
    if prompt or negative or steps is not None or seed or guidance is not None:
        raise UsageError("A run of your own needs the checkpoint as its reference; name it with --source.")
    observer.note(f"The checkpoint '{opened.manifest.source.id}' isn't here: comparing with the golden vectors.")
    return compare(opened, None, requests, [], gates, observer)


def choose_evaluations(
    bundle: Bundle,
    runtime: RuntimeChoice,
    precision: Precision | Sequence[Precision],
    compute_unit: ComputeUnit | None,
    source: Checkpoint | Path | str | None,
    observer: Observer,
) -> list[RuntimeRequest]:
    """The evaluations to compare: both precisions on the mil runtime, the only one on any other."""
    wanted: Sequence[Precision] = (precision,) if isinstance(precision, str) else precision
    if not wanted:
        wanted = ("fp32", "fp16") if choose_runtime(runtime, bundle) == "mil" else ("fp32",)
    return [RuntimeRequest.of(bundle, runtime, one, compute_unit, source, observer) for one in wanted]


def compare(
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    requests: Sequence[RuntimeRequest],
    drawings: Sequence[Request],
    gates: Gates,
    observer: Observer,
) -> VerifyReport:
    """Run the reference on `drawings` (or take the golden vectors without a checkpoint), then every evaluation."""
    reference, reference_record = make_reference(bundle, checkpoint, drawings, observer)
    exactness = reading = None
    if checkpoint is not None and all(record.format == "mlprogram" for record in bundle.manifest.components.values()):
        exactness = prove_exact(bundle, checkpoint, reference, observer)
    if checkpoint is not None and bundle.manifest.can_draw:
        reading = prove_reading(bundle, checkpoint, drawings[0], observer)
    evaluations: list[EvaluationAgreement] = []
    for request in requests:
        runtime = request.open_on(bundle)
        record = runtime_record(request, runtime)
        observer.start(record.description, evaluation_work(bundle, reference))
        diagnose = partial(find_fault, bundle, checkpoint, request.precision or "fp32", gates)
        traced = diagnose if request.kind == "mil" else None
        evaluations.append(evaluate(bundle, runtime, record, reference, gates, traced, observer.advance))
    first = reference.requests[0]
    manifest = bundle.manifest
    return VerifyReport(
        created_at=now(),
        producer=producer(),
        machine=describe_machine(),
        bundle=bundle_reference(bundle),
        reference=reference_record,
        prompts=tuple(request.prompt for request in reference.requests),
        negative_prompt=first.negative_prompt,
        seed=first.seed,
        steps=manifest.pipeline.default_steps if first.steps is None else first.steps,
        guidance_scale=manifest.guidance.default_scale if first.guidance_scale is None else first.guidance_scale,
        evaluations=tuple(evaluations),
        exactness=exactness,
        reading=reading,
        passed=all(part.passed for part in (*evaluations, exactness, reading) if part is not None),
    )


def prove_reading(bundle: Bundle, checkpoint: Checkpoint, drawing: Request, observer: Observer) -> ReadingAgreement:
    """Our reading of the checkpoint against diffusers' own, where diffusers can run it here."""
    reason = why_not(checkpoint)
    if reason is not None:
        observer.note(f"Not compared with diffusers: {reason}.")
        return ReadingAgreement(gate_db=READING_GATE_DB, skipped=reason)
    steps = bundle.manifest.pipeline.default_steps if drawing.steps is None else drawing.steps
    observer.start("Reading (diffusers, torch fp32)", 2 * steps)
    with TextToImage.of_bundle(bundle, TorchRuntime(bundle, checkpoint)) as pipeline:
        stages = compare_reading(checkpoint, pipeline, drawing, observer.advance)
    compared = tuple(SampleAgreement(input=stage.name, agreement=stage.agreement) for stage in stages)
    return ReadingAgreement(stages=compared, gate_db=READING_GATE_DB)


def make_reference(
    bundle: Bundle, checkpoint: Checkpoint | None, drawings: Sequence[Request], observer: Observer
) -> tuple[Reference, RuntimeRecord]:
    """What everything is compared with, and what made it."""
    if checkpoint is None:
        golden = RuntimeRecord(kind="torch", description="golden vectors (torch fp32)", precision="fp32")
        return golden_reference(bundle), golden
    request = RuntimeRequest(bundle.root, "torch", "fp32", source=checkpoint.source)
    runtime = request.open_on(bundle)
    observer.start("Reference (torch fp32)", reference_work(bundle, drawings))
    return record_reference(bundle, runtime, drawings, observer.advance), runtime_record(request, runtime)


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
