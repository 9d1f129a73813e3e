"""`.aimodel` files for Core AI (iOS 27), made from the ML Programs of the same export. Experimental.

An ML Program is bridged operation by operation, so weights are compressed, checked and named as they are for Core ML.
What Core AI's users report of the Neural Engine decides the form: norms are single operations (composites), nearest
upsampling is a repetition and no `interpolate`, palettes stay palettes, and functions share their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.manifest import ChunkRecord
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.coreai.palette import WIDTHS

if TYPE_CHECKING:
    from coreai.runtime import AIModelAssetMetadata

    from sfmobile.export.package import PackageMetadata

SUFFIX = ".aimodel"
# What the export is labelled with wherever it is offered or described.
EXPERIMENTAL = "experimental: for iOS 27, executed by Apple's runtime on a computer, never yet on a phone"


def write_coreai(packages: Mapping[str, Path], path: Path, metadata: PackageMetadata) -> None:
    """Write the .aimodel `path` with a function for each package (by the function's name); equal weights stand once.

    Raises `UnavailableError` where Apple's package isn't, and for an operation without a counterpart.
    """
    from sfmobile.runtime.coreai.bridge import bridge, write_asset

    programs = {function: load_program(package) for function, package in packages.items()}
    write_asset(bridge(programs, "fp16", shipped=True), path, asset_metadata(metadata))


def write_coreai_chunks(
    chunks: tuple[ChunkRecord, ...], packages: Path, folder: Path, metadata: PackageMetadata
) -> tuple[ChunkRecord, ...]:
    """Write an .aimodel for each chunk of Core ML below `packages` to the new directory `folder`; their records."""
    folder.mkdir()
    written: list[ChunkRecord] = []
    for chunk in chunks:
        path = folder / Path(chunk.package).with_suffix(SUFFIX).name
        write_coreai({"main": packages / chunk.package}, path, metadata)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        relative = path.relative_to(folder.parent).as_posix()
        written.append(chunk.model_copy(update={"package": relative, "bytes": size}))
    return tuple(written)


def stored_as(layer: LayerRecipe) -> LayerRecipe:
    """How an .aimodel stores what `layer` asks for: indices of 1 and 3 bits take the next width that Core AI has."""
    if layer.bits == FULL_BITS:
        return layer
    return layer.model_copy(update={"bits": next(width for width in WIDTHS if layer.bits <= width)})


def asset_metadata(metadata: PackageMetadata) -> AIModelAssetMetadata:
    """What an .aimodel says of itself."""
    from coreai.runtime import AIModelAssetMetadata

    found = AIModelAssetMetadata()
    found.author, found.license = metadata.author, metadata.licence
    found.model_description = metadata.description
    for key, value in {"version": metadata.version, **metadata.user}.items():
        if value:
            found.set_custom(key, value)
    return found
