"""The exported components against the networks they came from, on the pipeline's own inputs.

The reference (torch, fp32) runs the whole pipeline first, and what goes into and comes out of its components is kept.
Each component of the bundle is then fed exactly that: it answers for its own error only, not for what those before it
did. The picture of the bundle's own loop, where errors do add up, is compared beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bench.report import (
    Agreement,
    ComponentAgreement,
    EvaluationAgreement,
    OperationDivergence,
    RuntimeRecord,
    SampleAgreement,
)
from sfmobile.errors import GateError
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.verify.excitation import COUNT, exciting_inputs
from sfmobile.verify.recording import Call, Recorder
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName, ComponentRecord
    from sfmobile.runtime.protocol import LoadedComponent, Runtime

# Palettization costs most of the accuracy; 35 dB is the gate of apple/ml-stable-diffusion's own conversions.
PALETTIZED_GATE_DB = 35.0
EXACT_GATE_DB = 60.0

Advance = Callable[[int], None]
Diagnose = Callable[["ComponentName", Call], "OperationDivergence | None"]


@dataclass(frozen=True)
class Reference:
    """What the reference did: a picture, uint8 (H, W, 3), per request, and its components' calls, thinned out."""

    requests: tuple[Request, ...]
    pictures: tuple[np.ndarray, ...]
    calls: tuple[Call, ...]

    def of(self, component: ComponentName) -> list[Call]:
        """The calls of one component."""
        return [call for call in self.calls if call.component == component]


@dataclass(frozen=True)
class Gates:
    """PSNR to reach, in dB. component: of every component, or None for the default of its compression.

    picture: of the picture of the whole loop, or None for no gate: guidance multiplies a component's error in every
    step, so its PSNR says how far two runs part, not whether one of them is wrong.
    """

    component: float | None = None
    picture: float | None = None

    def of(self, record: ComponentRecord) -> float:
        """The gate of a component."""
        if self.component is not None:
            return self.component
        return EXACT_GATE_DB if record.compression is None else PALETTIZED_GATE_DB


def record_reference(bundle: Bundle, runtime: Runtime, requests: Sequence[Request], advance: Advance) -> Reference:
    """Run every request on the reference `runtime`; `advance` is told of each step.

    Kept are all calls of the text encoder and the decoder, and the UNet's of the first, the middle and the last step:
    pure noise, half a picture, and a picture. A bundle that can't draw is called on inputs made to excite it instead.
    """
    if not bundle.manifest.can_draw:
        return _excited_reference(bundle, runtime, advance)
    recorder = Recorder(runtime)
    pictures: list[np.ndarray] = []
    calls: list[Call] = []
    with TextToImage.of_bundle(bundle, recorder) as pipeline:
        for number, request in enumerate(requests, start=1):
            latents: np.ndarray | None = None
            for step in pipeline.steps(request):
                latents = step.latents
                taken = recorder.take(f"prompt {number}, step {step.index + 1} of {step.count}")
                wanted = step.index in (0, step.count // 2, step.count - 1)
                calls += [call for call in taken if wanted or call.component != "unet"]
                advance(1)
            assert latents is not None
            pictures.append(to_pixels(pipeline.decode(latents)))
            calls += recorder.take(f"prompt {number}, final latents")
            advance(1)
    return Reference(tuple(requests), tuple(pictures), tuple(calls))


def _excited_reference(bundle: Bundle, runtime: Runtime, advance: Advance) -> Reference:
    """Calls of each component that the bundle holds, for when there is no run to take them from."""
    recorder = Recorder(runtime)
    calls: list[Call] = []
    for name in bundle.manifest.components:
        with recorder.load(name) as component:
            for number, inputs in enumerate(exciting_inputs(bundle.manifest, name, ()), start=1):
                component.predict(inputs)
                calls += recorder.take(f"input {number}")
                advance(1)
    return Reference((), (), tuple(calls))


def golden_reference(bundle: Bundle) -> Reference:
    """The run that was recorded with the reference when the bundle was exported, for when the checkpoint isn't here.

    One call per component; the UNet's is the last step's. Raises `ArtifactError` if the bundle has no golden vectors.
    """
    manifest = bundle.manifest
    calls: list[Call] = []
    for name, record in manifest.components.items():
        inputs = {tensor.name: bundle.golden(f"{name}.{tensor.name}") for tensor in record.inputs}
        outputs = {tensor.name: bundle.golden(f"{name}.{tensor.name}") for tensor in record.outputs}
        # Batch 1 was called once for each row that batch 2 takes together.
        batch = record.inputs[0].shape[0]
        for start in range(0, len(next(iter(inputs.values()))), batch):
            rows = slice(start, start + batch)
            calls.append(
                Call(
                    name,
                    "golden vectors",
                    {key: value[rows] for key, value in inputs.items()},
                    {key: value[rows] for key, value in outputs.items()},
                )
            )
    golden = manifest.golden
    assert golden is not None  # bundle.golden has refused it
    request = Request(golden.prompt, golden.negative_prompt, golden.seed, golden.steps, golden.guidance_scale)
    return Reference((request,), (to_pixels(bundle.golden("decoder.image")),), tuple(calls))


def evaluate(
    bundle: Bundle,
    runtime: Runtime,
    described: RuntimeRecord,
    reference: Reference,
    gates: Gates,
    diagnose: Diagnose | None,
    advance: Advance,
) -> EvaluationAgreement:
    """Compare every component of the bundle on `runtime` with the reference, then the pictures of the whole loop.

    diagnose: finds the operation at fault, asked for a component under its gate, with its worst call.
    advance: told 1 for each call compared and for each step of the loop.
    """
    components: dict[ComponentName, ComponentAgreement] = {}
    for name, record in bundle.manifest.components.items():
        with runtime.load(name) as component:
            samples = [(call, compare_call(component, call, advance)) for call in reference.of(name)]
        call, worst = min(samples, key=lambda sample: sample[1].closeness)
        gate = gates.of(record)
        passed = worst.reaches(gate)
        components[name] = ComponentAgreement(
            worst=worst,
            gate_db=gate,
            passed=passed,
            samples=tuple(SampleAgreement(input=call.label, agreement=found) for call, found in samples),
            first_divergence=None if passed or diagnose is None else diagnose(name, call),
        )
    found = EvaluationAgreement(
        runtime=described,
        components=components,
        picture=compare_pictures(bundle, runtime, reference, advance),
        picture_gate_db=gates.picture,
        passed=all(component.passed for component in components.values()),
    )
    return found.model_copy(update={"passed": found.passed and found.picture_passed})


def compare_call(component: LoadedComponent, call: Call, advance: Advance) -> Agreement:
    """Feed `component` what the reference was fed; the worst of its outputs."""
    outputs = component.predict(call.inputs)
    advance(1)
    return worst_of(agreement(expected, outputs[name]) for name, expected in call.outputs.items())


def compare_pictures(bundle: Bundle, runtime: Runtime, reference: Reference, advance: Advance) -> Agreement | None:
    """The worst picture of the bundle's own loop, over 8-bit pixels; None if the bundle lacks a component for it.

    A loop that breaks off on NaN or infinity has no picture: all of its values count as such.
    """
    if not bundle.manifest.can_draw:
        return None
    found: list[Agreement] = []
    with TextToImage.of_bundle(bundle, runtime) as pipeline:
        for request, expected in zip(reference.requests, reference.pictures, strict=True):
            try:
                pixels = pipeline.generate(request, lambda _: advance(1)).pixels
            except GateError:
                return Agreement(psnr_db=None, identical=False, max_abs_error=None, nonfinite=expected.size)
            advance(1)
            found.append(agreement(expected, pixels, peak=255))
    return worst_of(found)


def worst_of(found: Iterable[Agreement]) -> Agreement:
    """The least close of several."""
    return min(found, key=lambda one: one.closeness)


def reference_work(bundle: Bundle, requests: Sequence[Request]) -> int:
    """How often `record_reference` advances."""
    if not bundle.manifest.can_draw:
        return COUNT * len(bundle.manifest.components)
    default = bundle.manifest.pipeline.default_steps
    return sum((default if request.steps is None else request.steps) + 1 for request in requests)


def evaluation_work(bundle: Bundle, reference: Reference) -> int:
    """How often `evaluate` advances."""
    pictures = reference_work(bundle, reference.requests) if reference.requests else 0
    return len(reference.calls) + pictures
