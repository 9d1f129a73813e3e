"""What was lost: a recording of one evaluation against a recording of its reference.

The reference runs the whole pipeline first, and what goes into and comes out of its components is kept. Each component
of the bundle is then fed exactly that: it answers for its own error only, for none that came before it. The bundle's
own loop, where errors do add up, is compared beside it: the latents behind every step, and the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bench.verify_report import (
    Agreement,
    ComponentAgreement,
    EvaluationAgreement,
    OperationDivergence,
    SampleAgreement,
    StepAgreement,
)
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.samplers.named import named
from sfmobile.sampling.samplers.starting import start
from sfmobile.verify.excitation import COUNT
from sfmobile.verify.recording import Call
from sfmobile.verify.runs import Recording, Run
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from sfmobile.bench.records import RuntimeRecord
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.verify.gates import Gates

# Asked for a component under its gate, with its worst call.
Diagnose = Callable[["ComponentName", Call], "OperationDivergence | None"]


def golden_reference(bundle: Bundle, components: Sequence[ComponentName] | None = None) -> Recording:
    """The run that was recorded with the reference when the bundle was exported, for when the checkpoint isn't here.

    One call per component; the UNet's is the last step's. Raises `ArtifactError` if the bundle has no golden vectors.
    """
    manifest = bundle.manifest
    calls: list[Call] = []
    for name in components or tuple(manifest.components):
        record = manifest.components[name]
        inputs = {tensor.name: bundle.golden(f"{name}.{tensor.name}") for tensor in record.inputs}
        outputs = {tensor.name: bundle.golden(f"{name}.{tensor.name}") for tensor in record.outputs}
        # Batch 1 was called once for each row that batch 2 takes together.
        batch = record.inputs[0].shape[0]
        for first in range(0, len(next(iter(inputs.values()))), batch):
            rows = slice(first, first + batch)
            calls.append(
                Call(
                    name,
                    "golden vectors",
                    {key: value[rows] for key, value in inputs.items()},
                    {key: value[rows] for key, value in outputs.items()},
                )
            )
    picture = to_pixels(bundle.golden("decoder.image"))
    golden = manifest.golden
    assert golden is not None  # bundle.golden has refused it
    request = Request(golden.prompt, golden.negative_prompt, golden.seed, golden.steps, golden.guidance_scale)
    # Behind the noise, one behind each step.
    latents = tuple(one[None] for one in bundle.golden("run.latents")[1:])
    return Recording((Run(request, latents, picture),), tuple(calls))


def compare(
    reference: Recording,
    found: Recording,
    described: RuntimeRecord,
    gates: Gates,
    bundle: Bundle,
    diagnose: Diagnose | None = None,
) -> EvaluationAgreement:
    """What `found`, of the runtime `described`, is off from `reference`, which recorded the same inputs and requests.

    diagnose: finds the operation at fault.
    """
    records = bundle.manifest.components
    components: dict[ComponentName, ComponentAgreement] = {}
    for name in dict.fromkeys(call.component for call in found.calls):
        pairs = list(zip(reference.of(name), found.of(name), strict=True))
        samples = [(call, compare_calls(call, given)) for call, given in pairs]
        call, worst = min(samples, key=lambda sample: sample[1].closeness)
        gate = gates.of(records[name])
        passed = worst.reaches(gate)
        components[name] = ComponentAgreement(
            worst=worst,
            gate_db=gate,
            passed=passed,
            samples=tuple(SampleAgreement(input=call.label, agreement=one) for call, one in samples),
            first_divergence=None if passed or diagnose is None else diagnose(name, call),
        )
    steps, picture = compare_runs(reference.runs, found.runs)
    scale = max((_scale(bundle, run.request) for run in found.runs), default=1.0)
    evaluation = EvaluationAgreement(
        runtime=described,
        components=components,
        steps=steps,
        steps_gate_db=gates.of_latents(records.values(), scale) if steps else None,
        picture=picture,
        picture_gate_db=None if picture is None else gates.of_picture(records.values(), scale),
        broke_off=next((run.broke_off for run in found.runs if run.broke_off is not None), None),
        passed=False,
    )
    return evaluation.model_copy(update={"passed": not list(evaluation.failures())})


def compare_calls(reference: Call, found: Call) -> Agreement:
    """The worst of a call's outputs."""
    return worst_of(agreement(expected, found.outputs[name]) for name, expected in reference.outputs.items())


def compare_runs(reference: Sequence[Run], found: Sequence[Run]) -> tuple[tuple[StepAgreement, ...], Agreement | None]:
    """The worst of all runs: the latents behind each step, and the picture over 8-bit pixels; None without one.

    What a run that broke off lacks has all of its values not finite.
    """
    pairs = [(one, other) for one, other in zip(reference, found, strict=False) if one.picture is not None]
    count = max((len(one.latents or ()) for one, _ in pairs), default=0)
    steps = tuple(
        StepAgreement(step=index + 1, agreement=worst_of(_latents(pairs, index)))
        for index in range(count)
        if any(len(one.latents or ()) > index for one, _ in pairs)
    )
    pictures = [
        agreement(one.picture, other.picture, peak=255) if other.picture is not None else _lost(one.picture)
        for one, other in pairs
        if one.picture is not None
    ]
    return steps, worst_of(pictures) if pictures else None


def _latents(pairs: Iterable[tuple[Run, Run]], index: int) -> Iterable[Agreement]:
    for reference, found in pairs:
        expected, given = reference.latents or (), found.latents or ()
        if index < len(expected):
            yield agreement(expected[index], given[index]) if index < len(given) else _lost(expected[index])


def _lost(expected: np.ndarray) -> Agreement:
    return Agreement(psnr_db=None, identical=False, max_abs_error=None, nonfinite=expected.size)


def worst_of(found: Iterable[Agreement]) -> Agreement:
    """The least close of several."""
    return min(found, key=lambda one: one.closeness)


def steps_of(bundle: Bundle, request: Request) -> int:
    """How many steps a request takes."""
    return bundle.manifest.pipeline.default_steps if request.steps is None else request.steps


def calls_of(bundle: Bundle, request: Request) -> int:
    """How many evaluations of the UNet a request takes. Raises `UsageError` for what can't be walked."""
    own = bundle.manifest.sampler
    record = own if request.sampler is None else named(own, request.sampler)
    return start(record, steps_of(bundle, request)).calls


def reference_work(bundle: Bundle, requests: Sequence[Request]) -> int:
    """How often `runs.record_reference` or `runs.excited_reference` advances."""
    if not bundle.manifest.can_draw:
        return COUNT * len(bundle.manifest.components)
    return sum(calls_of(bundle, request) + 1 for request in requests)


def evaluation_work(bundle: Bundle, reference: Recording, draws: bool = True) -> int:
    """How often `runs.answer` advances."""
    return len(reference.calls) + (reference_work(bundle, reference.requests) if draws else 0)


def _scale(bundle: Bundle, request: Request) -> float:
    """The scale by which the loop guides: none where the UNet takes it as an input."""
    if bundle.manifest.pipeline.takes_guidance:
        return 1.0
    return bundle.manifest.guidance.default_scale if request.guidance_scale is None else request.guidance_scale
