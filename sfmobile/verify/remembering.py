"""A runtime that computes nothing twice: a proof asks the same of a component for more than one of its answers.

What Exact was given by a package, Lost asks for again; diffusers' run is compared with the very run that the reference
drew. A component whose every answer is known isn't loaded either, which at full size costs as much as an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import Self

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.manifest import ComponentRecord, TensorRecord
    from sfmobile.runtime.protocol import Arrays, LoadedComponent, Runtime
    from sfmobile.verify.recording import Call


class Remembering:
    """Wraps a runtime, whose predictions depend on their inputs alone.

    records: of the components, by name. expected: calls that will be asked for later; they are predicted as soon as
    their component is loaded for whatever else.
    """

    def __init__(
        self, runtime: Runtime, records: Mapping[ComponentName, ComponentRecord], expected: Sequence[Call] = ()
    ) -> None:
        self.runtime = runtime
        self.records = records
        self.expected: dict[ComponentName, list[Call]] = {}
        self.expect(expected)
        self.known: dict[str, dict[str, np.ndarray]] = {}

    def expect(self, calls: Sequence[Call]) -> None:
        """Say what will be asked for later."""
        for call in calls:
            self.expected.setdefault(call.component, []).append(call)

    def describe(self) -> str:
        """The wrapped runtime's own name."""
        return self.runtime.describe()

    def load(self, name: ComponentName) -> RememberedComponent:
        """A component that is loaded when it is first asked what isn't known yet; only then a broken one shows."""
        return RememberedComponent(name, self)


class RememberedComponent:
    """A component of a `Remembering` runtime."""

    def __init__(self, name: ComponentName, owner: Remembering) -> None:
        self.name: ComponentName = name
        self.inputs: tuple[TensorRecord, ...] = owner.records[name].inputs
        self.outputs: tuple[TensorRecord, ...] = owner.records[name].outputs
        self._owner = owner
        self._loaded: LoadedComponent | None = None

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """What is known, or what the component gives; copies, for callers may write into them."""
        known, key = self._owner.known, _key(self.name, inputs)
        if key not in known:
            if self._loaded is None:
                self._loaded = self._load()
            if key not in known:
                known[key] = _copied(self._loaded.predict(inputs))
        return _copied(known[key])

    def _load(self) -> LoadedComponent:
        owner = self._owner
        loaded = owner.runtime.load(self.name)
        for call in owner.expected.pop(self.name, ()):
            owner.known[_key(self.name, call.inputs)] = _copied(loaded.predict(call.inputs))
        return loaded

    def close(self) -> None:
        """Close the component, if it was loaded; what it gave stays known."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _key(name: ComponentName, inputs: Arrays) -> str:
    """One word for a component and the very values that it is given."""
    digest = hashlib.sha256(name.encode())
    for key, value in sorted(inputs.items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _copied(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in arrays.items()}
