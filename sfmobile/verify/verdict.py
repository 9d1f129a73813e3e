"""A bundle's verdict: whether it is what it claims to be, what it lost, what it rounds, how its checkpoint was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bench.header import bundle_reference, producer, runtime_record
from sfmobile.bench.machine import describe_machine
from sfmobile.bench.records import RuntimeRecord, now
from sfmobile.bench.verify_report import (
    EvaluationAgreement,
    ExactAgreement,
    Exactness,
    OperationDivergence,
    ReferenceName,
    ReferenceRecord,
    VerifyReport,
)
from sfmobile.errors import UsageError
from sfmobile.observer import Observer
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.runtime.opening import RuntimeRequest, choose_runtime, has_source, open_bundle, open_source
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.samplers.named import name_of, named
from sfmobile.verify.constants import constant_faults, reference_pipeline
from sfmobile.verify.exactness import QUICK, THOROUGH, by_function, look, prove_asset, prove_component
from sfmobile.verify.gates import ROUNDED_GATE_DB, Gates
from sfmobile.verify.recording import Call, Recorder
from sfmobile.verify.references import REFERENCES, Asked, choose
from sfmobile.verify.remembering import Remembering
from sfmobile.verify.replay import replay_faults
from sfmobile.verify.runs import Recording, answer, draws, excited_reference, record_reference
from sfmobile.verify.verification import compare, evaluation_work, golden_reference, reference_work, steps_of
from sfmobile.verify.weights import Known

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeChoice
    from sfmobile.runtime.protocol import Runtime

DEFAULT_PROMPTS = ("a red apple", "a yellow star on a blue background, flat icon")
QUICK_STEPS = 2


def verify(
    bundle: Bundle | Path | str,
    *,
    source: Checkpoint | Path | str | None = None,
    reference: ReferenceName | Sequence[ReferenceName] = (),
    component: ComponentName | Sequence[ComponentName] = (),
    quick: bool = False,
    gate: float | None = None,
    picture_gate: float | None = None,
    prompt: str | Sequence[str] = (),
    negative: str = "",
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    sampler: str | None = None,
    precision: Precision | Sequence[Precision] = (),
    runtime: RuntimeChoice = "mil",
    compute_unit: ComputeUnit | None = None,
    observer: Observer | None = None,
) -> VerifyReport:
    """Prove what `bundle` is, and measure what it lost: its result says `passed`, `failures()` and what is at fault.

    Exact: every stored weight, the programs in fp32 with the very weights they store, and the manifest's constants,
    against the checkpoint; without it, the constants against the vectors recorded at export. Lost: every component
    against its PyTorch network with the source's weights, fed what the reference was fed, and the loop at every step.
    Rounded: fp16 against fp32 evaluation. Read: references against each other, such as our reading of the checkpoint
    against diffusers' own pipeline. Nothing under its gate raises.

    source: the checkpoint the bundle was exported from, if it isn't where it was. reference: of nets, golden,
    diffusers, coreai; by default the first three where they are here and fit in memory. component: only these, which
    leaves out the loop. quick: one prompt, two steps, one input a component, the loop once. gate: PSNR in dB of every
    component, by default 35 if palettized, else 60; picture_gate: of the final picture, by default what `gate` and
    guidance leave. prompt (two of ours without it), negative, steps, seed, guidance, sampler (another than the bundle's
    own, by name): the runs that are compared. runtime: what executes the bundle; precision: only these evaluations of
    it, by default fp32 and fp16 on mil; compute_unit: of the coreml runtime.

    Raises `UsageError` for options that make no sense, `ArtifactError` for a bundle that isn't whole or a checkpoint
    that isn't its own, `UnavailableError` for a reference that can't be had, `GateError` for one that gives NaN itself.
    """
    observer = observer or Observer()
    opened = open_bundle(bundle, observer=observer)
    requests = choose_evaluations(opened, runtime, precision, compute_unit, source, observer)
    checkpoint = open_source(opened, source, observer) if has_source(opened, source) else None
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    own = prompts or negative or seed or any(one is not None for one in (steps, guidance, sampler))
    if checkpoint is None and own:
        raise UsageError("A run of your own needs the checkpoint as its reference; name it with --source.")
    wanted: Sequence[ReferenceName] = (reference,) if isinstance(reference, str) else tuple(reference)
    left_out: list[str] = []
    if quick:
        steps, prompts = _hurried(opened, steps, prompts, left_out)
    drawings = [Request(text, negative, seed, steps, guidance, sampler) for text in prompts or DEFAULT_PROMPTS]
    if sampler is not None:
        named(opened.manifest.sampler, sampler)
    components = choose_components(opened, component)
    if not draws(opened, components):
        if opened.manifest.can_draw:
            left_out.append("the loop and the picture, which need every component")
    elif quick and len(requests) > 1:
        left_out.append(f"the loop in {requests[0].precision}")
    asked = Asked.of(opened, checkpoint, drawings, components, observer)
    if quick and checkpoint is not None and "golden" not in wanted:
        # Today's networks are asked enough by the other answers; the replay of the golden run is cheap.
        asked = replace(asked, recalls=False)
        left_out.append("the golden run on today's networks")
    return _Verification(asked, requests, Gates(gate, picture_gate), choose(asked, wanted), quick).report(left_out)


def _hurried(
    bundle: Bundle, steps: int | None, prompts: tuple[str, ...], left_out: list[str]
) -> tuple[int | None, tuple[str, ...]]:
    """Steps and prompts to be quick with; what that leaves out is added to `left_out`."""
    every = prompts or DEFAULT_PROMPTS
    if len(every) > 1:
        left_out.append(f"{len(every) - 1} of {len(every)} prompts")
    default = bundle.manifest.pipeline.default_steps
    if steps is None and default > QUICK_STEPS:
        left_out.append(f"a run in {default} steps, for one in {QUICK_STEPS}")
        steps = QUICK_STEPS
    left_out.append(f"{THOROUGH.calls + THOROUGH.excitations - QUICK.calls - QUICK.excitations} inputs of Exact")
    if (steps or default) > 1:
        left_out.append("components' calls behind the first step")
    left_out.append("a look for operations that no input reaches")
    return steps, every[:1]


def choose_components(bundle: Bundle, wanted: ComponentName | Sequence[ComponentName]) -> tuple[ComponentName, ...]:
    """The components to look at, in the bundle's order. Raises `UsageError` for one that it hasn't."""
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    known = bundle.manifest.components
    for name in names:
        if name not in known:
            raise UsageError(f"Unknown component '{name}'; '{bundle.root}' has {', '.join(known)}.")
    return tuple(name for name in known if not names or name in names)


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


@dataclass
class _Verification:
    """One bundle, the references that are used, and the evaluations to compare with them."""

    asked: Asked
    requests: Sequence[RuntimeRequest]
    gates: Gates
    references: Sequence[ReferenceRecord]
    quick: bool
    packages: Remembering | None = None

    def report(self, left_out: Sequence[str]) -> VerifyReport:
        """Ask every question that the references can answer."""
        asked, bundle = self.asked, self.asked.bundle
        recording, described = self._reference()
        exact = self._exact(recording)
        calls = () if recording is None else recording.calls
        read = [one for name in self._used() for one in REFERENCES[name].compare(asked, calls)]
        evaluations: list[EvaluationAgreement] = []
        rounded = None
        if recording is not None:
            evaluations, rounded = self._lost(recording)
        drawn = tuple(asked.drawings) if recording is None else recording.requests
        first = next(iter(drawn), asked.drawings[0])
        answers = (exact, rounded, *evaluations, *read)
        return VerifyReport(
            created_at=now(),
            producer=producer(),
            machine=describe_machine(),
            bundle=bundle_reference(bundle),
            passed=all(part.passed for part in answers if part is not None),
            reference=described,
            references=tuple(self.references),
            left_out=tuple(left_out),
            prompts=tuple(one.prompt for one in drawn),
            negative_prompt=first.negative_prompt,
            seed=first.seed,
            steps=steps_of(bundle, first),
            guidance_scale=(
                bundle.manifest.guidance.default_scale if first.guidance_scale is None else first.guidance_scale
            ),
            sampler=name_of(bundle.manifest.sampler) if first.sampler is None else first.sampler,
            exact=exact,
            evaluations=tuple(evaluations),
            rounded=rounded,
            read=tuple(read),
        )

    def _packages(self, recording: Recording) -> Remembering:
        """The packages on mil in fp32: what Exact asks of them is a part of what Lost does."""
        if self.packages is None:
            bundle = self.asked.bundle
            self.packages = Remembering(MilRuntime(bundle), bundle.manifest.components, recording.calls)
        return self.packages

    def _used(self) -> list[ReferenceName]:
        return [record.name for record in self.references if record.skipped is None]

    def _reference(self) -> tuple[Recording | None, RuntimeRecord]:
        """What Lost is measured against, and what made it: our networks, else the golden vectors, else nothing."""
        asked, used = self.asked, self._used()
        if "nets" not in used:
            golden = RuntimeRecord(kind="torch", description="golden vectors (torch fp32)", precision="fp32")
            return golden_reference(asked.bundle, asked.components) if "golden" in used else None, golden
        assert asked.checkpoint is not None and asked.networks is not None
        request = RuntimeRequest(asked.bundle.root, "torch", "fp32", source=asked.checkpoint.source)
        runtime = asked.networks
        if "golden" in used and asked.recalls and asked.bundle.manifest.can_draw:
            runtime.expect(golden_reference(asked.bundle, asked.components).calls)
        asked.observer.start("Reference (torch fp32)", reference_work(asked.bundle, asked.drawings))
        recorder = Recorder(runtime)
        locate = partial(_broken_module, asked.checkpoint)
        if not asked.bundle.manifest.can_draw:
            recording = excited_reference(asked.bundle, recorder, asked.observer.advance, asked.components)
            return recording, runtime_record(request, runtime)
        with reference_pipeline(asked.bundle, asked.checkpoint, recorder) as pipeline:
            recording = record_reference(
                pipeline, recorder, asked.drawings, asked.observer.advance, asked.components, locate, self.quick
            )
        return recording, runtime_record(request, runtime)

    def _exact(self, recording: Recording | None) -> Exactness | None:
        """The bundle against what it should be, as far as the references say."""
        asked, used = self.asked, self._used()
        bundle, checkpoint = asked.bundle, asked.checkpoint
        constants: list[str] = []
        against: list[str] = []
        components: dict[ComponentName, ExactAgreement] = {}
        if "nets" in used:
            assert checkpoint is not None and recording is not None
            package = self._packages(recording)
            for name in asked.components:
                if bundle.manifest.components[name].format == "mlprogram":
                    how = QUICK if self.quick else THOROUGH
                    # Functions of one package store most weights once.
                    known = Known()
                    for label, one in by_function(bundle, name):
                        # Calls of the run fit the function that it ran.
                        own = label == name
                        components[label] = prove_component(
                            one,
                            checkpoint,
                            name,
                            recording.of(name) if own else [],
                            asked.observer,
                            how,
                            look(one, checkpoint, name, asked.observer, known),
                            package if own else None,
                        )
                elif bundle.manifest.components[name].format == "coreai":
                    components[name] = prove_asset(bundle, checkpoint, name, asked.observer)
            constants += constant_faults(bundle, checkpoint)
            against.append("the checkpoint")
        if "golden" in used:
            constants += replay_faults(bundle)
            against.append("the golden vectors")
        if not against:
            return None
        return Exactness(components=components, constants=tuple(constants), against=tuple(against))

    def _lost(self, reference: Recording) -> tuple[list[EvaluationAgreement], EvaluationAgreement | None]:
        """Every evaluation against the reference; and the fp16 one of them against the fp32 one."""
        asked, bundle = self.asked, self.asked.bundle
        evaluations: list[EvaluationAgreement] = []
        found: dict[Precision | None, tuple[Recording, RuntimeRecord]] = {}
        for request in self.requests:
            # The last evaluation is the one nearest to a phone's.
            loops = not self.quick or request is self.requests[-1]
            on_mil = request.kind == "mil"
            known = on_mil and request.precision == "fp32"
            runtime: Runtime = self._packages(reference) if known else request.open_on(bundle)
            described = runtime_record(request, runtime)
            work = evaluation_work(bundle, reference, loops and draws(bundle, asked.components))
            asked.observer.start(described.description, work)
            precision = request.precision or "fp32"
            locate = partial(_broken_operation, bundle, precision) if on_mil else None
            given = answer(bundle, runtime, reference, asked.observer.advance, asked.components, locate, loops)
            checkpoint = asked.checkpoint if "nets" in self._used() else None
            diagnose = partial(find_fault, bundle, checkpoint, precision, self.gates) if on_mil else None
            evaluations.append(compare(reference, given, described, self.gates, bundle, diagnose))
            found[precision] = given, described
        if not {"fp32", "fp16"} <= set(found):
            return evaluations, None
        (exact, _), (narrow, described) = found["fp32"], found["fp16"]
        rounding = Gates(component=ROUNDED_GATE_DB)
        return evaluations, compare(exact, narrow, described, rounding, bundle)


def _broken_operation(bundle: Bundle, precision: Precision, call: Call) -> str | None:
    from sfmobile.verify.divergence import component_program
    from sfmobile.verify.nonfinite import broken_operation

    return broken_operation(component_program(bundle, call.component), call, precision)


def _broken_module(checkpoint: Checkpoint, call: Call) -> str | None:
    from sfmobile.verify.nonfinite import broken_module

    return broken_module(checkpoint.load(call.component), call)


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
