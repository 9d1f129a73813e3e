"""A network to a Core ML package: traced, lowered, palettized and written, the same way for whoever needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.choices import ComponentName, Target
from sfmobile.bundle.manifest import TensorRecord
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.export.package import PackageMetadata
from sfmobile.export.phases import ExportObserver
from sfmobile.mlpackage.names import WEIGHT, layer_constant

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class NetworkPackage:
    """What a network's package is to be.

    inputs, outputs: as its forward takes and gives them, float16 and int32. layers: how the weight of a layer is
    stored, by the layer's name in the network; those left out stay float16.
    """

    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    target: Target
    metadata: PackageMetadata
    layers: Mapping[str, LayerRecipe] = field(default_factory=dict)

    def write(
        self,
        net: nn.Module,
        path: Path,
        observer: ExportObserver | None = None,
        component: ComponentName | None = None,
    ) -> None:
        """Write `net` as the package `path`, a directory that doesn't exist yet; `net` is changed by it.

        Raises `LoweringError` if the program breaks a guarantee, `ArtifactError` for a weight that is not finite,
        `OSError` if the disk is full.
        """
        from sfmobile.export.lookup_tables import palettize_program
        from sfmobile.export.lowering import lower, trace
        from sfmobile.export.package import write_package

        observer = observer or ExportObserver()
        observer.phase(component, "trace")
        exported = trace(net, self.inputs)
        observer.phase(component, "convert")
        program = lower(exported, self.inputs, self.outputs, self.target)
        chosen = {name: layer for name, layer in self.layers.items() if layer.bits != FULL_BITS}
        if chosen:
            weights = net.state_dict()
            total = sum(weights[f"{name}.{WEIGHT}"].numel() for name in chosen)
            observer.phase(component, "palettize", total)
            constants = {layer_constant(name): layer for name, layer in chosen.items()}
            palettize_program(program, constants, advance=observer.advance)
        observer.phase(component, "write")
        write_package(program, path, self.target, self.metadata, self.inputs, self.outputs)
