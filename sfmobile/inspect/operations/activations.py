"""The largest magnitude of every value of a program, in a real run of the pipeline on the mil runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.runtime.mil.runtime import MilComponent, MilRuntime
from sfmobile.sampling.pipeline import Request, TextToImage

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName, ComponentRecord
    from sfmobile.runtime.mil.evaluate import Evaluator, OpResult

PROMPT = "a photo of an astronaut riding a horse on mars"

Magnitudes = dict[str, float]


class WatchedRuntime(MilRuntime):
    """The mil runtime with every operation's result looked at, in fp32; magnitudes add up over all calls.

    fp32, because in float16 an overflow would be seen behind the operation that caused it only.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "fp32", lean=True)
        self.magnitudes: dict[ComponentName, Magnitudes] = {}

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> MilComponent:
        component = super()._load_package(name, record)
        return WatchedComponent(name, record, component.evaluator, self.magnitudes.setdefault(name, {}))


class WatchedComponent(MilComponent):
    """A component that predicts operation by operation; inputs count as values too."""

    def __init__(
        self, name: ComponentName, record: ComponentRecord, evaluator: Evaluator, magnitudes: Magnitudes
    ) -> None:
        super().__init__(name, record, evaluator)
        self._magnitudes = magnitudes

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluate op by op and keep the largest magnitudes."""
        for name, value in inputs.items():
            self._note(name, value)
        return self.trace(inputs, self._look)

    def _look(self, result: OpResult) -> None:
        self._note(result.output, result.value)

    def _note(self, name: str, value: np.ndarray) -> None:
        if value.dtype.kind == "f" and value.size:
            # A NaN must not hide: it counts as beyond every range.
            largest = float(np.nan_to_num(np.abs(value).max(), nan=np.inf, posinf=np.inf))
            self._magnitudes[name] = max(self._magnitudes.get(name, 0.0), largest)


def record_magnitudes(
    bundle: Bundle, steps: int, prompt: str = PROMPT, advance: Callable[[int], None] = lambda units: None
) -> dict[ComponentName, Magnitudes]:
    """Largest magnitudes per component and value over one picture in `steps` steps.

    `advance` is told of each step and of the decoding. Raises what opening and running the pipeline raises.
    """
    runtime = WatchedRuntime(bundle)
    with TextToImage.of_bundle(bundle, runtime, keep_loaded=False) as pipeline:
        latents = None
        for step in pipeline.steps(Request(prompt, steps=steps)):
            latents = step.latents
            advance(1)
        assert latents is not None  # a run has at least one step
        pipeline.decode(latents)
        advance(1)
    return runtime.magnitudes
