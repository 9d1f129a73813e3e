"""The mil runtime: components of a bundle, executed from their packages by the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import UsageError
from sfmobile.runtime.choices import Precision
from sfmobile.runtime.chunks import ChunkedComponent, check_ml_program, load_packages
from sfmobile.runtime.component import Component, check_border
from sfmobile.runtime.protocol import Arrays

if TYPE_CHECKING:
    from sfmobile.runtime.mil.evaluate import Evaluator, OpResult


class MilComponent(Component):
    """A component on the mil runtime."""

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

    def __init__(self, bundle: Bundle, precision: Precision = "fp32", *, lean: bool = False) -> None:
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
        check_ml_program(self.bundle, name, "the mil runtime")
        return load_packages(self.bundle, name, lambda record: self._load_package(name, record))

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> MilComponent:
        from sfmobile.mlpackage.program import load_program
        from sfmobile.runtime.mil.evaluate import Evaluator

        program = load_program(self.bundle.root / record.package, record.function)
        inputs = {tensor: type_.shape for tensor, type_ in program.inputs.items()}
        outputs = {tensor: type_.shape for tensor, type_ in program.output_types().items()}
        check_border(record, program.package, inputs, outputs)
        return MilComponent(name, record, Evaluator(program, self.precision, lean=self.lean))
