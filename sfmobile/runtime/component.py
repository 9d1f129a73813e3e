"""The border of every engine: what comes in is checked against the manifest's record, what goes out is float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

import numpy as np
from typing_extensions import Self

from sfmobile.bundle.manifest import ComponentName, ComponentRecord, TensorRecord
from sfmobile.errors import UsageError
from sfmobile.runtime.protocol import Arrays

_INT32 = np.iinfo(np.int32)


class InputError(UsageError):
    """An input is missing, unknown, or of the wrong shape or dtype."""


class Component(ABC):
    """A loaded component: `predict` checks and converts, an engine's `run` computes, `close` frees."""

    def __init__(self, name: ComponentName, record: ComponentRecord) -> None:
        self.name = name
        self.inputs: tuple[TensorRecord, ...] = record.inputs
        self.outputs: tuple[TensorRecord, ...] = record.outputs
        self._closed = False

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run once. Inputs by name with the recorded shapes; outputs are float32.

        Any float dtype is taken for a float input and any integer dtype for an int32 one. Raises `InputError` for
        anything else, and `UsageError` after `close`.
        """
        if self._closed:
            raise UsageError(f"Component '{self.name}' is closed; load it again to predict.")
        known = {record.name: record for record in self.inputs}
        for name in inputs:
            if name not in known:
                raise InputError(f"Component '{self.name}' has no input '{name}'; it takes {', '.join(known)}.")
        for name in known:
            if name not in inputs:
                raise InputError(f"Component '{self.name}' lacks its input '{name}'; it takes {', '.join(known)}.")
        ready = {name: self._checked(record, np.asarray(inputs[name])) for name, record in known.items()}
        return {name: value.astype(np.float32, copy=False) for name, value in self.run(ready).items()}

    @abstractmethod
    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute. Inputs are C-contiguous, of the recorded shapes; float32 for floats, int32 for integers."""

    @abstractmethod
    def free(self) -> None:
        """Let go of weights and buffers."""

    def close(self) -> None:
        """Free weights and buffers; predicting afterwards is an error, closing again isn't."""
        if not self._closed:
            self._closed = True
            self.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, record: TensorRecord, value: np.ndarray) -> np.ndarray:
        if value.shape != record.shape:
            raise InputError(
                f"Input '{record.name}' of component '{self.name}' has shape {value.shape}; expected {record.shape}."
            )
        if record.dtype == "int32":
            if value.dtype.kind not in "iu":
                raise InputError(
                    f"Input '{record.name}' of component '{self.name}' has dtype {value.dtype}; expected integers."
                )
            if value.size and (value.min() < _INT32.min or value.max() > _INT32.max):
                raise InputError(
                    f"Input '{record.name}' of component '{self.name}' has the value {value.max()}; "
                    "expected 32-bit integers."
                )
            return np.ascontiguousarray(value, dtype=np.int32)
        if value.dtype.kind != "f":
            raise InputError(
                f"Input '{record.name}' of component '{self.name}' has dtype {value.dtype}; expected floats."
            )
        return np.ascontiguousarray(value, dtype=np.float32)
