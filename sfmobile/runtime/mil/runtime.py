"""The mil engine: components of a bundle, executed from their packages by the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime.chunks import ChunkedComponent
from sfmobile.runtime.component import Component
from sfmobile.runtime.protocol import Arrays

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Program
    from sfmobile.runtime.mil.evaluate import Evaluator, OpResult


class MilComponent(Component):
    """A component on the mil engine."""

    def __init__(self, name: ComponentName, record: ComponentRecord, evaluator: Evaluator) -> None:
        super().__init__(name, record)
        self._evaluator: Evaluator | None = evaluator

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator behind the component. Raises `UsageError` once closed."""
        if self._evaluator is None:
            raise UsageError(f"Component '{self.name}' is closed; load it again.")
        return self._evaluator

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluate the program."""
        return self.evaluator(inputs)

    def trace(self, inputs: Arrays, hook: Callable[[OpResult], None]) -> dict[str, np.ndarray]:
        """Evaluate the program op by op and show `hook` every op's result."""
        return self.evaluator.trace(inputs, hook)

    def free(self) -> None:
        """Drop the decoded weights."""
        self._evaluator = None


class MilRuntime:
    """Executes a bundle's ML Programs on any operating system."""

    def __init__(self, bundle: Bundle, precision: Literal["fp32", "fp16"] = "fp32", *, lean: bool = False) -> None:
        """`lean` keeps weights compressed in the mapped file and decodes them for each use."""
        self.bundle = bundle
        self.precision = precision
        self.lean = lean

    def describe(self) -> str:
        """E.g. "mil fp16 (torch 2.13.0 CPU)"."""
        import torch

        return f"mil {self.precision} (torch {torch.__version__.split('+')[0]} CPU)"

    def load(self, name: ComponentName) -> MilComponent | ChunkedComponent[MilComponent]:
        """Load one component and decode its weights.

        Raises `ArtifactError` if its package is missing or broken or isn't what the manifest says, `UsageError` if it
        is no ML Program, `UnavailableError` if the program uses an op that the evaluator doesn't know.
        """
        package = self.bundle.package(name)
        record = self.bundle.manifest.components[name]
        if record.format != "mlprogram":
            raise UsageError(f"{package} is an ONNX file, which the mil runtime can't execute; use --runtime onnx.")
        if record.chunks:
            return ChunkedComponent(name, record, lambda part: self._load_package(name, part))
        return self._load_package(name, record)

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> MilComponent:
        from sfmobile.mlpackage.program import load_program
        from sfmobile.runtime.mil.evaluate import Evaluator

        program = load_program(self.bundle.root / record.package, record.function)
        _check_border(program, record)
        return MilComponent(name, record, Evaluator(program, self.precision, lean=self.lean))


def _check_border(program: Program, record: ComponentRecord) -> None:
    """Raise `ArtifactError` unless the program's inputs and outputs are those the manifest records."""
    for what, tensors, types in (
        ("input", record.inputs, program.inputs),
        ("output", record.outputs, program.output_types()),
    ):
        recorded = {tensor.name: tensor.shape for tensor in tensors}
        found = {name: type_.shape for name, type_ in types.items()}
        for name in sorted(set(recorded) | set(found)):
            if recorded.get(name) != found.get(name):
                raise ArtifactError(
                    f"{program.package}: {what} '{name}' is {found.get(name, 'missing')} in the package and "
                    f"{recorded.get(name, 'missing')} in the manifest; export the bundle again."
                )
