"""What a runtime gave: the calls of its components, and whole runs from a prompt to a picture, every step kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.errors import GateError
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.recording import Call, Recorder
from sfmobile.verify.remembering import Remembering

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import Manifest
    from sfmobile.runtime.protocol import LoadedComponent, Runtime

Advance = Callable[[int], None]
# Says where in a call NaN or infinity first appears, in words; None if that can't be told.
Locate = Callable[[Call], "str | None"]


@dataclass(frozen=True)
class Run:
    """One request drawn.

    latents: float32 (1, C, H, W) behind each step; None where they weren't kept. picture: uint8 (H, W, 3); None if the
    run has none. broke_off: where NaN or infinity ended it, in words.
    """

    request: Request
    latents: tuple[np.ndarray, ...] | None
    picture: np.ndarray | None
    broke_off: str | None = None


@dataclass(frozen=True)
class Recording:
    """Runs, and components' calls thinned out."""

    runs: tuple[Run, ...]
    calls: tuple[Call, ...]

    @property
    def requests(self) -> tuple[Request, ...]:
        """What was drawn."""
        return tuple(run.request for run in self.runs)

    def of(self, component: ComponentName) -> list[Call]:
        """The calls of one component."""
        return [call for call in self.calls if call.component == component]


def record_reference(
    pipeline: TextToImage,
    recorder: Recorder,
    requests: Sequence[Request],
    advance: Advance,
    components: Sequence[ComponentName],
    locate: Locate | None = None,
    quick: bool = False,
) -> Recording:
    """Draw every request on `pipeline`, which runs on `recorder`; `advance` is told of each step.

    Kept are the calls of the first, the middle and the last step (pure noise, half a picture, a picture; to be quick
    the first alone) and all before and behind them; a component that no run calls is given inputs made to excite it.
    components: what is asked for; a run goes no further than they need. Raises `GateError` saying where, if the
    reference itself gives NaN.
    """
    # What the loop itself calls once it has the prompt's encoding.
    drawn = {pipeline.manifest.pipeline.unet, pipeline.manifest.pipeline.decoder}
    runs: list[Run] = []
    calls: list[Call] = []
    for number, request in enumerate(requests, start=1):
        latents: list[np.ndarray] = []
        try:
            if not drawn & set(components):
                texts = dict.fromkeys((request.prompt, request.negative_prompt))
                for text in texts if set(pipeline.manifest.pipeline.text_encoders) & set(components) else ():
                    pipeline.encode(text)
                calls += recorder.take(f"prompt {number}")
                runs.append(Run(request, None, None))
                continue
            for step in pipeline.steps(request):
                latents.append(step.latents)
                taken = recorder.take(f"prompt {number}, step {step.index + 1} of {step.count}")
                if step.index == 0 or (not quick and step.index in (step.count // 2, step.count - 1)):
                    calls += taken
                advance(1)
            picture = None
            if pipeline.manifest.pipeline.decoder in components:
                image = pipeline.decode(latents[-1])
                picture = to_pixels(image)
                if pipeline.manifest.pipeline.encoder in components:
                    pipeline.moments(image.clip(-1, 1))
                if pipeline.manifest.pipeline.safety_checker in components:
                    pipeline.embed(picture)
                calls += recorder.take(f"prompt {number}, final latents")
        except GateError as error:
            found = _broken(_broken_call(recorder), len(latents), locate)
            raise GateError(f"The reference ({recorder.describe()}) is broken itself: {found}.") from error
        runs.append(Run(request, tuple(latents), picture))
        advance(1)
    called = {call.component for call in calls}
    calls += _excited(pipeline.manifest, recorder, [name for name in components if name not in called], advance)
    return Recording(tuple(runs), tuple(call for call in calls if call.component in components))


def excited_reference(
    bundle: Bundle, recorder: Recorder, advance: Advance, components: Sequence[ComponentName]
) -> Recording:
    """Calls of each component on inputs made to excite it: for a bundle that can't draw, which has no runs."""
    return Recording((), tuple(_excited(bundle.manifest, recorder, components, advance)))


def _excited(
    manifest: Manifest, recorder: Recorder, components: Iterable[ComponentName], advance: Advance
) -> list[Call]:
    calls: list[Call] = []
    for name in components:
        with recorder.load(name) as component:
            for number, inputs in enumerate(exciting_inputs(manifest, name, ()), start=1):
                component.predict(inputs)
                calls += recorder.take(f"input {number}")
                advance(1)
    return calls


def answer(
    bundle: Bundle,
    runtime: Runtime,
    asked: Recording,
    advance: Advance,
    components: Sequence[ComponentName],
    locate: Locate | None = None,
    loops: bool = True,
) -> Recording:
    """What `runtime` gives of the bundle's components for the inputs and the requests that `asked` recorded.

    advance: told 1 for each call and for each step of the loop. The loop is run if all of its components are asked for
    (never unless it `loops`).
    """
    # The loop loads every component, which then answers the calls as well.
    remembering = Remembering(runtime, bundle.manifest.components, asked.calls)
    runs: list[Run] = []
    if loops and draws(bundle, components) and any(run.picture is not None for run in asked.runs):
        recorder = Recorder(remembering)
        # One run needs no component twice; at full size all of them together take what a laptop has.
        with TextToImage.of_bundle(bundle, recorder, keep_loaded=len(asked.runs) > 1) as pipeline:
            runs = [draw(pipeline, recorder, request, advance, locate) for request in asked.requests]
    calls: list[Call] = []
    for name in components:
        with remembering.load(name) as component:
            calls += [call_again(component, call, advance) for call in asked.of(name)]
    return Recording(tuple(runs), tuple(calls))


def draws(bundle: Bundle, components: Sequence[ComponentName]) -> bool:
    """Whether `components` are all that the bundle's task takes."""
    return bundle.manifest.can_draw and set(components) == set(bundle.manifest.components)


def call_again(component: LoadedComponent, call: Call, advance: Advance = lambda calls: None) -> Call:
    """Feed `component` what was fed in `call`."""
    outputs = component.predict(call.inputs)
    advance(1)
    return replace(call, outputs={name: np.array(outputs[name]) for name in call.outputs})


def draw(
    pipeline: TextToImage, recorder: Recorder, request: Request, advance: Advance, locate: Locate | None = None
) -> Run:
    """One run of the bundle's own loop; NaN or infinity ends it, and the run says where."""
    latents: list[np.ndarray] = []
    recorder.calls.clear()
    try:
        for step in pipeline.steps(request):
            latents.append(step.latents)
            recorder.calls.clear()
            advance(1)
        picture = to_pixels(pipeline.decode(latents[-1]))
    except GateError:
        return Run(request, tuple(latents), None, _broken(_broken_call(recorder), len(latents), locate))
    finally:
        recorder.calls.clear()
    advance(1)
    return Run(request, tuple(latents), picture)


def _broken_call(recorder: Recorder) -> Call:
    return next(call for call in reversed(recorder.calls) if broken_values(call))


def _broken(call: Call, steps: int, locate: Locate | None) -> str:
    """Which component gave NaN or infinity, behind which step, from which operation on."""
    where = None if locate is None else locate(call)
    first = "" if where is None else f", first at {where}"
    return f"{call.component} gives {broken_values(call)} values that are NaN or infinite after {steps} steps{first}"


def broken_values(call: Call) -> int:
    """How many values of a call's outputs are NaN or infinite."""
    return sum(int(value.size - np.count_nonzero(np.isfinite(value))) for value in call.outputs.values())
