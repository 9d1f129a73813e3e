"""Packages of several functions: one set of weights for several shapes (latent sizes, guidance batches).

Core ML runs them from iOS 18 on and loads one function at a time. Functions are merged from packages written one by
one, weights already compressed; equal weights are stored once, found by content. `coremltools.utils.save_multifunction`
makes the same packages by loading every program and its weights into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sfmobile.mlpackage import schema
from sfmobile.mlpackage.package import Package, copy_weights, new_weight_file, write_model
from sfmobile.mlpackage.weight_file import WeightWriter


def merge_packages(packages: Mapping[str, Path], path: Path) -> None:
    """Write the package `path` with a function for each of `packages` (by function name), the first the default one.

    Each package holds one function for iOS 18 or later. Raises `ArtifactError` if one can't be read.
    """
    merged = schema.model().Model()
    with WeightWriter(new_weight_file(path)) as weights:
        for name, package in packages.items():
            part = Package(package)
            source = part.model
            if not merged.specificationVersion:
                merged.mlProgram.version = source.mlProgram.version
                merged.description.metadata.CopyFrom(source.description.metadata)
                merged.description.defaultFunctionName = name
            merged.specificationVersion = max(merged.specificationVersion, source.specificationVersion)
            description = merged.description.functions.add(name=name)
            description.input.extend(source.description.input)
            description.output.extend(source.description.output)
            copy_weights(part, part.block().operations, weights)
            merged.mlProgram.functions[name].CopyFrom(part.function())
    write_model(merged, path)
