"""A runtime that keeps what goes in and comes out: the real inputs of a pipeline, for other runtimes to be fed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import Self

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentName, TensorRecord
    from sfmobile.runtime.protocol import Arrays, LoadedComponent, Runtime


@dataclass(frozen=True)
class Call:
    """One prediction: where in the pipeline it happened, what went in, what came out (float32, int32 ids)."""

    component: ComponentName
    label: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@dataclass
class Recorder:
    """Wraps a runtime; `take` hands out what was predicted since the last time."""

    runtime: Runtime
    calls: list[Call] = field(default_factory=list)

    def describe(self) -> str:
        """The wrapped runtime's own name."""
        return self.runtime.describe()

    def load(self, name: ComponentName) -> LoadedComponent:
        """Load a component whose predictions are kept."""
        return RecordedComponent(self.runtime.load(name), self)

    def take(self, label: str) -> list[Call]:
        """Calls since the last time, told where in the pipeline they belong; they are no longer kept here."""
        taken = [replace(call, label=label) for call in self.calls]
        self.calls.clear()
        return taken


class RecordedComponent:
    """A loaded component whose predictions go into a `Recorder`."""

    def __init__(self, component: LoadedComponent, recorder: Recorder) -> None:
        self.name: ComponentName = component.name
        self.inputs: tuple[TensorRecord, ...] = component.inputs
        self.outputs: tuple[TensorRecord, ...] = component.outputs
        self._component = component
        self._recorder = recorder

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Predict and keep copies: callers may reuse their buffers."""
        outputs = self._component.predict(inputs)
        self._recorder.calls.append(
            Call(
                self.name,
                "",
                {name: np.array(value) for name, value in inputs.items()},
                {name: np.array(value) for name, value in outputs.items()},
            )
        )
        return outputs

    def close(self) -> None:
        """Close the wrapped component; the record stays."""
        self._component.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
