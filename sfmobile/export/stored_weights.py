"""What packages really store, read from their files: the last look before an export counts as done.

A compressor that skips a layer, or chunks cut from the uncompressed program, give packages that run and are wrong only
in size. So every layer that was to be compressed is looked up in what ships.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfmobile.compress.recipe import FULL_BITS, LayerRecipe
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program_file import ProgramFile, is_constant, tensor_type

PALETTIZED_SUFFIX = "_palettized"


def check_stored(packages: Sequence[Path], layers: Mapping[str, LayerRecipe]) -> None:
    """Raise `ArtifactError` unless the packages together store each of `layers` (by constant name) as chosen.

    A group size that doesn't divide a weight's channels means one table for all, as the palettizer has it.
    """
    missing = {name for name, layer in layers.items() if layer.bits != FULL_BITS}
    for package in packages:
        for constant in _constants(ProgramFile(package)):
            name = constant.outputs[0].name
            layer = layers.get(name.removesuffix(PALETTIZED_SUFFIX))
            if layer is None:
                continue
            expected, found = _expected(layer, constant), _found(constant)
            if found != expected:
                raise ArtifactError(
                    f"'{package}' stores weight '{name}' as {found}, expected {expected}; export it again."
                )
            missing.discard(name.removesuffix(PALETTIZED_SUFFIX))
    if missing:
        raise ArtifactError(
            f"'{packages[0]}' lacks {len(missing)} weights that were to be compressed, '{sorted(missing)[0]}' for one; "
            "export it again."
        )


def _constants(program: ProgramFile) -> Iterator[Any]:
    for name in program.model.mlProgram.functions:
        yield from (operation for operation in program.block(name).operations if is_constant(operation))


def _expected(layer: LayerRecipe, constant: Any) -> str:
    if layer.bits == FULL_BITS:
        return "FLOAT16"
    channels = tensor_type(constant.outputs[0].type).shape[0] or 1
    grouped = layer.group_size is not None and channels % layer.group_size == 0
    tables = channels // layer.group_size if grouped and layer.group_size else 1
    return f"{layer.bits} bits in {tables} tables"


def _found(constant: Any) -> str:
    """How a constant is stored: its data type, or the bits and tables of a palettized one."""
    if constant.type != "constexpr_lut_to_dense":
        return tensor_type(constant.outputs[0].type).data_type
    operands = {key: value.type for key, value in constant.attributes.items()}
    operands |= {key: bindings.arguments[0].value.type for key, bindings in constant.inputs.items()}
    shape = tensor_type(operands["lut"]).shape
    # iOS 16 has one table (2**bits,); iOS 18 has (groups, 1, ..., 2**bits, 1).
    entries, tables = (shape[0], 1) if len(shape) == 1 else (shape[-2], shape[0])
    return f"{(entries or 1).bit_length() - 1} bits in {tables} tables"
