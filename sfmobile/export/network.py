"""A network to a Core ML package: traced, lowered, palettized and written, the same way for whoever needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.choices import ComponentName, Target
from sfmobile.bundle.manifest import FileRecord, TensorRecord
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.export.package import PackageMetadata, describe
from sfmobile.export.phases import ExportObserver
from sfmobile.mlpackage.names import layer_constant
from sfmobile.mlpackage.package import WEIGHTS_PATH, write_model

if TYPE_CHECKING:
    from torch import nn

    from sfmobile.export.filling import Weights
    from sfmobile.export.outline import Outline


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
        """Write `net` as the package `path`, a directory that doesn't exist yet; `net` is left without weights.

        Raises `LoweringError` if the program breaks a guarantee, `ArtifactError` for a weight that is not finite,
        `OSError` if the disk is full.
        """
        from sfmobile.export.filling import HeldWeights

        weights = HeldWeights({key: value.detach().half().numpy() for key, value in net.named_parameters()})
        self.fill(self.outline(net, observer, component), path, weights, observer, component)

    def outline(
        self, net: nn.Module, observer: ExportObserver | None = None, component: ComponentName | None = None
    ) -> Outline:
        """The network's program without weights, of which `net` needs none and has none afterwards.

        Raises `LoweringError` if the program breaks a guarantee.
        """
        from sfmobile.export.outlining import draw_outline

        return draw_outline(net, self.inputs, self.outputs, self.target, observer, component)

    def fill(
        self,
        outline: Outline,
        path: Path,
        weights: Weights,
        observer: ExportObserver | None = None,
        component: ComponentName | None = None,
    ) -> FileRecord:
        """Write an outline of the network with its weights as the package `path`; returns the weight file's record.

        Raises `ArtifactError` for a weight that is not finite, `OSError` if the disk is full. The same outline and
        weights give the same bytes.
        """
        from sfmobile.export.filling import fill

        observer = observer or ExportObserver()
        total = outline.values(self.constants)
        observer.phase(component, "palettize" if total else "write", total or None)
        filled = fill(outline, path, weights, self.constants, observer.advance)
        describe(filled.model, self.metadata, self.inputs, self.outputs)
        write_model(filled.model, path)
        return FileRecord(bytes=(path / WEIGHTS_PATH).stat().st_size, sha256=filled.weights_sha256)

    @property
    def constants(self) -> dict[str, LayerRecipe]:
        """How constants of its program are stored, by their name."""
        return {layer_constant(name): layer for name, layer in self.layers.items() if layer.bits != FULL_BITS}
