"""What packages really store, read from their files: the last look before an export counts as done.

A compressor that skips a layer, or chunks cut from the uncompressed program, give packages that run and are wrong only
in size. So every layer that was to be compressed is looked up in what ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.constexpr import palette_of
from sfmobile.mlpackage.names import PALETTIZED
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import Constant, read_program


def check_stored(packages: Sequence[Path], layers: Mapping[str, LayerRecipe]) -> None:
    """Raise `ArtifactError` unless the packages together store each of `layers` (by constant name) as chosen.

    A group size that doesn't divide a weight's channels means one table for all, as the palettizer has it.
    """
    missing = {name for name, layer in layers.items() if layer.bits != FULL_BITS}
    for path in packages:
        package = Package(path)
        for function in package.functions:
            for name, constant in read_program(package, function).constants.items():
                layer = layers.get(name.removesuffix(PALETTIZED))
                if layer is None:
                    continue
                expected, found = _expected(layer, constant), _found(constant)
                if found != expected:
                    raise ArtifactError(
                        f"'{path}' stores weight '{name}' as {found}, expected {expected}; export it again."
                    )
                missing.discard(name.removesuffix(PALETTIZED))
    if missing:
        raise ArtifactError(
            f"'{packages[0]}' lacks {len(missing)} weights that were to be compressed, '{sorted(missing)[0]}' for one; "
            "export it again."
        )


def _expected(layer: LayerRecipe, constant: Constant) -> str:
    if layer.bits == FULL_BITS:
        return "fp16"
    channels = constant.type.sizes[0]
    grouped = layer.group_size is not None and channels % layer.group_size == 0
    tables = channels // layer.group_size if grouped and layer.group_size else 1
    return f"{layer.bits} bits in {tables} tables"


def _found(constant: Constant) -> str:
    """How a constant is stored: its data type, or the bits and tables of a palettized one."""
    table = constant.stored.get("lut")
    if table is None:
        return constant.type.data_type
    palette = palette_of(table)
    return f"{palette.bits} bits in {palette.tables} tables"
