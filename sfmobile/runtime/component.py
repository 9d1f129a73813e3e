"""The border of every runtime: what comes in is checked against the manifest's record, what goes out is float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import Self

from sfmobile.bundle.manifest import ComponentName, ComponentRecord, TensorRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime.protocol import Arrays

_INT32 = np.iinfo(np.int32)

# Shapes by tensor, as a package declares them; a size that isn't static is no integer.
Shapes = Mapping[str, Sequence[int | str | None]]


class InputError(UsageError):
    """An input is missing, unknown, or of the wrong shape or dtype."""


class Component(ABC):
    """A loaded component: `predict` checks and converts, a runtime's `run` computes, `close` frees."""

    def __init__(self, name: ComponentName, record: ComponentRecord) -> None:
        self.name = name
        self.inputs: tuple[TensorRecord, ...] = record.inputs
        self.outputs: tuple[TensorRecord, ...] = record.outputs
        self._closed = False

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run once. Inputs by name with the recorded shapes; outputs are float32, int32 where that is recorded.

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
        types = {record.name: np.int32 if record.dtype == "int32" else np.float32 for record in self.outputs}
        return {name: value.astype(types[name], copy=False) for name, value in self.run(ready).items()}

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


def check_border(record: ComponentRecord, package: Path, inputs: Shapes, outputs: Shapes) -> None:
    """Raise `ArtifactError` unless the shapes of a package's inputs and outputs are those the manifest records."""
    for what, tensors, declared in (("input", record.inputs, inputs), ("output", record.outputs, outputs)):
        recorded = {tensor.name: list(tensor.shape) for tensor in tensors}
        found = {name: list(shape) for name, shape in declared.items()}
        differing = {name for name in (*recorded, *found) if recorded.get(name) != found.get(name)}
        if differing:
            raise ArtifactError(
                f"{package}: {what}s are {_listed(found, differing)} in the file and {_listed(recorded, differing)} in "
                "the manifest; export the bundle again."
            )


def _listed(shapes: Shapes, names: set[str]) -> str:
    return ", ".join(f"'{name}' {shape}" for name, shape in shapes.items() if name in names) or "missing"
