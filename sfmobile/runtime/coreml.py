"""The coreml runtime: prediction by Core ML itself, through coremltools, on macOS.

It has been exercised against a recorded interface (a stand-in with `MLModel`'s call signature), not on Apple hardware.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.runtime.choices import COMPUTE_UNITS, ComputeUnit
from sfmobile.runtime.chunks import ChunkedComponent, check_ml_program, load_packages
from sfmobile.runtime.component import Component


class Model(Protocol):
    """The part of `coremltools.models.MLModel` that is used."""

    def predict(self, data: dict[str, np.ndarray]) -> Mapping[str, Any]:
        """Outputs by name."""
        ...


ModelLoader = Callable[[Path, ComputeUnit, "str | None"], Model]


def load_model(package: Path, compute_unit: ComputeUnit, function: str | None) -> Model:
    """Compile and load `package`. `function` names one of a multifunction package."""
    import coremltools as ct

    unit = ct.ComputeUnit[compute_unit]
    model: Model = ct.models.MLModel(str(package), compute_units=unit, function_name=function)
    return model


class CoreMLComponent(Component):
    """A component on Core ML. Specialisation for the device happens at the first prediction, not at loading."""

    def __init__(self, name: ComponentName, record: ComponentRecord, model: Model) -> None:
        super().__init__(name, record)
        self._model: Model | None = model

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict. coremltools takes float32 arrays for float16 inputs."""
        assert self._model is not None
        found = self._model.predict(dict(inputs))
        outputs = {}
        for record in self.outputs:
            if record.name not in found:
                raise ArtifactError(
                    f"Core ML gave no output '{record.name}' for component '{self.name}' (it gave "
                    f"{', '.join(found)}); export the bundle again."
                )
            outputs[record.name] = np.asarray(found[record.name])
        return outputs

    def free(self) -> None:
        """Drop the model; Core ML frees it with its last reference."""
        self._model = None


class CoreMLRuntime:
    """Predicts with Core ML on a choice of compute units."""

    def __init__(self, bundle: Bundle, compute_unit: ComputeUnit = "ALL", *, loader: ModelLoader | None = None) -> None:
        """Raises `UnavailableError` off macOS (unless a `loader` stands in for Core ML)."""
        if compute_unit not in COMPUTE_UNITS:
            raise UsageError(f"Compute unit '{compute_unit}' is unknown; expected one of {', '.join(COMPUTE_UNITS)}.")
        if loader is None and platform.system() != "Darwin":
            raise UnavailableError(
                f"Core ML needs macOS and this is {platform.system()}; use --runtime mil, which executes the same "
                "packages anywhere."
            )
        self.bundle = bundle
        self.compute_unit = compute_unit
        self._loader = loader or load_model

    def describe(self) -> str:
        """E.g. "coreml CPU_AND_NE"."""
        return f"coreml {self.compute_unit}"

    def load(self, name: ComponentName) -> CoreMLComponent | ChunkedComponent[CoreMLComponent]:
        """Load one component. Raises `UsageError` if it is no ML Program."""
        check_ml_program(self.bundle, name, "Core ML")
        return load_packages(self.bundle, name, lambda record: self._load_package(name, record))

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> CoreMLComponent:
        # Only a package of several functions takes a function's name, also that of the default one.
        function = record.function if record.functions or record.function != "main" else None
        return CoreMLComponent(
            name, record, self._loader(self.bundle.root / record.package, self.compute_unit, function)
        )
