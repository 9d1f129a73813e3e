"""The coreai runtime: a bundle's .aimodels, or its ML Programs bridged to Core AI, executed by Apple's runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.chunks import check_ml_program, load_packages
from sfmobile.runtime.component import Component, check_border
from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.asset import Asset, bridged

if TYPE_CHECKING:
    from sfmobile.mlpackage.types import TensorType
    from sfmobile.runtime.choices import Precision


class CoreAIComponent(Component):
    """A component as a Core AI program."""

    def __init__(self, name: ComponentName, record: ComponentRecord, asset: Asset) -> None:
        super().__init__(name, record)
        self._asset = asset
        self._called = record.function

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the function."""
        found = self._asset.call(self._called, inputs)
        return {tensor.name: found[tensor.name] for tensor in self.outputs}

    def free(self) -> None:
        """Release the program."""
        self._asset.close()


class CoreAIRuntime:
    """Executes a bundle by Apple's Core AI runtime; on Linux by its reference CPU kernels, slowly.

    ML Programs are bridged, operation by operation, to `precision`. An .aimodel holds float16 and runs so in "fp16"; in
    "fp32" the same program computes wide with the weights that it stores.
    """

    def __init__(self, bundle: Bundle, precision: Precision = "fp32", *, widened: bool = False) -> None:
        """`widened`: fp16 with matrix products and gelu computed wide and rounded once, as `mil` does.

        Raises `UnavailableError` where Apple's package isn't.
        """
        library.require()
        self.bundle = bundle
        self.precision = precision
        self.widened = widened

    def describe(self) -> str:
        """E.g. "coreai fp32 (coreai-core 1.0.0b3 CPU)"."""
        return f"coreai {self.precision} ({library.DISTRIBUTION} {library.VERSION} CPU)"

    def load(self, name: ComponentName) -> Component:
        """Load one component: its .aimodel as it is, widened in fp32; its ML Program bridged.

        Raises `ArtifactError` if its package is missing or broken, `UsageError` if it is an ONNX file,
        `UnavailableError` for an operation without a counterpart and for an .aimodel of another compiler.
        """
        return load_packages(self.bundle, name, partial(self._load_package, name))

    def _load_package(self, name: ComponentName, record: ComponentRecord) -> CoreAIComponent:
        path = self.bundle.root / record.package
        if record.format == "coreai":
            return self._load_asset(name, record, path)
        check_ml_program(self.bundle, name, "the coreai runtime")
        program = load_program(path, record.function)
        check_border(record, path, shapes_of(program.inputs), shapes_of(program.output_types()))
        return CoreAIComponent(name, record, bridged(program, self.precision, widened=self.widened))

    def _load_asset(self, name: ComponentName, record: ComponentRecord, path: Path) -> CoreAIComponent:
        asset = Asset(path, widened=self.precision == "fp32")
        try:
            check_border(record, path, *asset.shapes(record.function))
        except ArtifactError:
            asset.close()
            raise
        return CoreAIComponent(name, record, asset)


def shapes_of(types: Mapping[str, TensorType]) -> dict[str, tuple[int | None, ...]]:
    """Shapes by name."""
    return {name: type_.shape for name, type_ in types.items()}
