"""A component in chunks: several packages run one after the other, each fed by those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import UsageError
from sfmobile.runtime.component import Component

Part = TypeVar("Part", bound=Component)


def part_records(record: ComponentRecord) -> Iterator[ComponentRecord]:
    """The record of each package that makes up a component: of its chunks in running order, or its own."""
    if not record.chunks:
        yield record
    for chunk in record.chunks:
        yield record.model_copy(
            update={
                "package": chunk.package,
                "inputs": chunk.inputs,
                "outputs": chunk.outputs,
                "bytes": chunk.bytes,
                "chunks": (),
            }
        )


class ChunkedComponent(Component, Generic[Part]):
    """The chunks of one component on one runtime, all loaded."""

    def __init__(self, name: ComponentName, record: ComponentRecord, load: Callable[[ComponentRecord], Part]) -> None:
        """`load` makes one chunk ready, given its record; what is loaded is closed again if a later chunk fails."""
        super().__init__(name, record)
        self.parts: list[Part] = []
        try:
            for part in part_records(record):
                self.parts.append(load(part))
        except BaseException:
            self.free()
            raise

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run every chunk; what one hands over is kept until the last that takes it has run."""
        values = dict(inputs)
        wanted = {tensor.name for tensor in self.outputs}
        for place, part in enumerate(self.parts):
            values.update(part.predict({tensor.name: values[tensor.name] for tensor in part.inputs}))
            needed = wanted | {tensor.name for later in self.parts[place + 1 :] for tensor in later.inputs}
            values = {name: value for name, value in values.items() if name in needed}
        return {tensor.name: values[tensor.name] for tensor in self.outputs}

    def free(self) -> None:
        """Close every chunk."""
        while self.parts:
            self.parts.pop().close()


def load_packages(
    bundle: Bundle, name: ComponentName, load: Callable[[ComponentRecord], Part]
) -> Part | ChunkedComponent[Part]:
    """A component of `bundle`, however many packages it is: `load` makes one ready, given its record.

    A record names the package, the function of it to run, and that function's inputs and outputs. Raises
    `ArtifactError` if the bundle has no such component, and what `load` raises.
    """
    bundle.package(name)
    record = bundle.manifest.components[name]
    return ChunkedComponent(name, record, load) if record.chunks else load(record)


def check_ml_program(bundle: Bundle, name: ComponentName, reader: str) -> None:
    """Raise `UsageError` if a component is no ML Program, the only thing that `reader` can execute."""
    package, found = bundle.package(name), bundle.manifest.components[name].format
    if found != "mlprogram":
        kind = "an ONNX file" if found == "onnx" else "an .aimodel"
        raise UsageError(f"{package} is {kind}, which {reader} can't execute; use --runtime {found}.")
