"""Any Core ML model, executed: no bundle, no manifest, only what the model says of itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike

from sfmobile.errors import UnavailableError, UsageError
from sfmobile.mlpackage.container import open_container
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.types import DATA_TYPES
from sfmobile.runtime.choices import ModelRuntime, Precision
from sfmobile.runtime.features import given_array
from sfmobile.runtime.stages import Engine, ProgramStage, Stage, open_stage

if TYPE_CHECKING:
    from sfmobile.mlpackage.description import Description
    from sfmobile.mlpackage.types import TensorType
    from sfmobile.runtime.mil.values import State

Inputs = Mapping[str, Any]


class ModelState:
    """What a model keeps between calls, as coremltools' `MLState`."""

    def __init__(self, name: str, types: Mapping[str, TensorType], states: dict[str, State]) -> None:
        self._name = name
        self._types = types
        self.states = states

    def read_state(self, name: str) -> np.ndarray:
        """A copy of one state. Raises `UsageError` if there is none of that name."""
        value: np.ndarray = self._state(name).value.numpy()
        return value.astype(DATA_TYPES[self._types[name].data_type].numpy or value.dtype, copy=True)

    def write_state(self, name: str, value: ArrayLike) -> None:
        """Replace one state. Raises `UsageError` if there is none of that name, or of another shape or kind."""
        import torch

        from sfmobile.mlpackage.description import Array, Feature

        state = self._state(name)
        feature = Feature(name, Array(self._types[name].data_type, ()))
        array = given_array(f"State '{name}' of {self._name}", feature, self._types[name], value)
        state.value = torch.from_numpy(np.array(array)).to(state.value.dtype)

    def _state(self, name: str) -> State:
        if name not in self.states:
            raise UsageError(f"{self._name} has no state '{name}'; it has {', '.join(self.states) or 'none'}.")
        return self.states[name]


class Model:
    """An .mlpackage, an .mlmodel or an .mlmodelc on this machine: `Model("any.mlpackage").predict({"x": array})`.

    inputs, outputs: what it declares, by name: a data type and a shape, None for a size that varies. description: the
    same with pictures, ranges of shapes and defaults.
    """

    def __init__(
        self,
        package: Path | str,
        *,
        precision: Precision = "fp32",
        function: str | None = None,
        runtime: ModelRuntime = "mil",
    ) -> None:
        """Read the model; weights are decoded at the first prediction.

        precision: fp16 rounds every operation's result. function: of a package with several, its default one without.
        runtime: "mil", "onnx" (translated, needs the extra onnx) or "coreml" (on a Mac).

        Raises `ArtifactError` for what is no ML Program and no pipeline of them, or broken, `UnavailableError` for what
        this machine can't execute.
        """
        self.package = Path(package)
        self.precision = precision
        self.function = function
        self.runtime = runtime
        if precision == "fp16" and runtime != "mil":
            raise UsageError(f"--precision fp16 is an evaluation of the runtime mil, not of {runtime}; leave it out.")
        if runtime == "coreml" and platform.system() != "Darwin":
            raise UnavailableError(
                f"Core ML needs macOS and this is {platform.system()}; use --runtime mil, which executes the same "
                "packages anywhere."
            )
        container = open_container(self.package)
        engine: Engine = "onnx" if runtime == "onnx" else "mil"
        self.stage: Stage = open_stage(container, function, precision, engine)
        self.functions = Package(container).functions if container.kind == "mlProgram" else ()
        self.description: Description = self.stage.description
        self.inputs: dict[str, TensorType] = self.stage.inputs
        self.outputs: dict[str, TensorType] = self.stage.outputs

    @overload
    def predict(self, inputs: Inputs, state: ModelState | None = None) -> dict[str, Any]: ...

    @overload
    def predict(self, inputs: Sequence[Inputs], state: None = None) -> list[dict[str, Any]]: ...

    def predict(
        self, inputs: Inputs | Sequence[Inputs], state: ModelState | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Run once: values by name in, values by name out; or once for each of a list, as coremltools does.

        An array input takes anything numpy or torch makes an array of; a picture of PIL's goes where one is declared,
        and so does an array in the program's own layout (1, C, H, W), 0 to 255. An optional input may be left out.
        Results are copies of the declared data types, pictures where those are declared, a classifier's label and its
        numbers by class.

        Raises `UsageError` for an input that is missing, unknown, of a shape or size that isn't allowed, or no numbers
        (or no whole ones, or too large ones, where those are declared), and for a model with states without `state`;
        `UnavailableError` for an operation that the runtime doesn't know.
        """
        if isinstance(inputs, Mapping):
            if self.runtime == "coreml":
                return dict(self._coreml.predict(dict(inputs)))
            return self.stage.predict(inputs, None if state is None else state.states)
        if state is not None:
            raise UsageError(f"{self.package.name}: a list of inputs goes without a state, whose order it has none of.")
        return [self.predict(one) for one in inputs]

    def make_state(self) -> ModelState:
        """What the model keeps between calls, full of zeros; a model without states has an empty one."""
        if not isinstance(self.stage, ProgramStage) or not self.stage.program.states:
            return ModelState(self.package.name, {}, {})
        program = self.stage.program
        return ModelState(self.package.name, program.states, self.stage.evaluator.new_states())

    def __repr__(self) -> str:
        def shown(types: Mapping[str, TensorType]) -> str:
            return ", ".join(f"{name} {type_}" for name, type_ in types.items())

        return f"<{self.package.name}: {shown(self.inputs)} -> {shown(self.outputs)}>"

    @cached_property
    def _coreml(self) -> Any:
        from sfmobile.runtime.coreml import load_model

        return load_model(self.package, "ALL", self.function)
