"""Any .mlpackage, executed: no bundle, no manifest, only what the package says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sfmobile.errors import UsageError
from sfmobile.mlpackage.program import load_program
from sfmobile.mlpackage.types import DATA_TYPES, FLOAT_TYPES
from sfmobile.runtime.choices import Precision

if TYPE_CHECKING:
    from sfmobile.mlpackage.types import TensorType
    from sfmobile.runtime.mil.evaluate import Evaluator


class Model:
    """One function of an .mlpackage on the mil runtime: `Model("any.mlpackage").predict({"x": array})`.

    inputs, outputs: what it declares, by name: a data type and a shape, None for a size that varies. An image input
    takes the array that the program declares for it.
    """

    def __init__(self, package: Path | str, *, precision: Precision = "fp32", function: str | None = None) -> None:
        """Read the program; weights are decoded at the first prediction.

        precision: fp16 rounds every operation's result. function: of a package with several, its default one without.

        Raises `ArtifactError` for what is no ML Program, or broken, `UnavailableError` if it uses more than tensors.
        """
        self.package = Path(package)
        self.precision = precision
        self._program = load_program(self.package, function)
        self.inputs: dict[str, TensorType] = dict(self._program.inputs)
        self.outputs: dict[str, TensorType] = self._program.output_types()

    def predict(self, inputs: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """Run once: arrays by name in, arrays by name out, of the declared data types.

        Numbers are converted to the input's declared type. Raises `UsageError` for an input that is missing, unknown,
        of another shape, or no numbers (or no whole ones, where those are declared), `UnavailableError` for an
        operation that the runtime doesn't know.
        """
        ready = {name: self._numbers(name, np.asarray(value)) for name, value in inputs.items()}
        return {name: self._declared(name, value) for name, value in self._evaluator(ready).items()}

    def __repr__(self) -> str:
        def shown(types: Mapping[str, TensorType]) -> str:
            return ", ".join(f"{name} {type_}" for name, type_ in types.items())

        return f"<{self.package.name}: {shown(self.inputs)} -> {shown(self.outputs)}>"

    @cached_property
    def _evaluator(self) -> Evaluator:
        from sfmobile.runtime.mil.evaluate import Evaluator

        return Evaluator(self._program, self.precision)

    def _declared(self, name: str, value: np.ndarray) -> np.ndarray:
        """The evaluator gives floats as float32; numpy has no bfloat16, which stays that."""
        kind = DATA_TYPES[self.outputs[name].data_type].numpy
        return value if kind is None else value.astype(kind, copy=False)

    def _numbers(self, name: str, value: np.ndarray) -> np.ndarray:
        declared = self.inputs.get(name)
        wanted = "biuf" if declared is None or declared.data_type in FLOAT_TYPES else "biu"
        if value.dtype.kind not in wanted:
            raise UsageError(
                f"Input '{name}' of {self.package.name} has dtype {value.dtype}; expected "
                f"{'numbers' if declared is None else f'numbers for {declared}'}."
            )
        return value
