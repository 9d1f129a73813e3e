"""What every runtime does: load a component of a bundle, predict, unload. Arrays at the border are numpy's."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

import numpy as np
from typing_extensions import Self

from sfmobile.bundle.manifest import ComponentName, TensorRecord

Arrays = Mapping[str, np.ndarray]


class LoadedComponent(Protocol):
    """A component ready to predict. Close it to free its memory; it is its own context manager."""

    name: ComponentName
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run once. Inputs by name with the recorded shape (any float dtype is converted); outputs are float32, int32
        where that is recorded."""
        ...

    def close(self) -> None:
        """Free weights and buffers; predicting afterwards is an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Runtime(Protocol):
    """A runtime: `describe` names it with its precision, as every figure it produces must."""

    def describe(self) -> str:
        """E.g. "mil fp16 (torch 2.13 CPU)" or "coreml CPU_AND_NE"."""
        ...

    def load(self, name: ComponentName) -> LoadedComponent:
        """Load one component of the bundle this runtime was opened on."""
        ...
