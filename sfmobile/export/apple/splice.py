"""A package between an adapter's two ends: the same operations and the same file of weights, under Apple's names.

The program is edited as it stands in its file, as chunks are cut: what was proved of a bundle's package holds for this
one, up to the few operations at its ends. Their constants are written into the program, so that the weights are the
bundle's own file: a second name of it where the file system has those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.bundle.choices import Target
from sfmobile.bundle.manifest import TensorRecord
from sfmobile.bundle.store import link_or_copy
from sfmobile.errors import ArtifactError
from sfmobile.export.apple.adapters import ADDED, Adapter
from sfmobile.mlpackage import schema
from sfmobile.mlpackage.package import (
    COREML_FOLDER,
    DATA_FOLDER,
    MAIN,
    WEIGHT_FILE,
    WEIGHTS_FOLDER,
    Package,
    new_weight_file,
    rename_reads,
    write_model,
)

if TYPE_CHECKING:
    from sfmobile.export.coremltools_names import Program

# What a package of this form says of itself.
FORM_KEY, FORM = "com.sfmobile.form", "apple/ml-stable-diffusion"
FEATURE_TYPES = {"float16": "FLOAT16", "float32": "FLOAT32", "int32": "INT32"}


def splice(source: Path, path: Path, adapter: Adapter, target: Target) -> None:
    """Write the package `path`, that of `source` (whole, or a chunk) between the adapter's ends.

    Raises `ArtifactError` for a package of several functions, or with names that are the adapter's.
    """
    package = Package(source)
    if len(package.functions) != 1:
        raise ArtifactError(f"'{source}' has {len(package.functions)} functions, of which Apple's form has one.")
    model = schema.model().Model()
    model.CopyFrom(package.model)
    function = model.mlProgram.functions[package.default_function]
    block = function.block_specializations[function.opset]
    types = {item.name: item.type for item in package.function().inputs}
    given, gives = list(types), list(block.outputs)
    _rename(block.operations, adapter.renamed, source)
    taken = {adapter.renamed.get(name, name) for name in given}
    ours = {record.name for record in adapter.inputs}
    front, made = _front(adapter, target, taken)
    inputs = [record for record in adapter.inputs if record.name in (taken - made) | _inputs_of(front)]
    carried_in = [name for name in given if name not in adapter.renamed and name not in ours]
    carried_out = [name for name in gives if name not in adapter.renamed]
    # A chunk that isn't the last gives nothing that is the component's.
    back = adapter.back(target) if len(carried_out) < len(gives) else None
    outputs = adapter.outputs if back is not None else ()

    operations = [*_operations(front, target), *block.operations, *_operations(back, target)]
    del block.operations[:], function.inputs[:], block.outputs[:]
    block.operations.extend(operations)
    for record in inputs:
        _set_type(function.inputs.add(name=record.name).type.tensorType, record)
    for name in carried_in:
        function.inputs.add(name=name).type.CopyFrom(types[name])
    block.outputs.extend([*(record.name for record in outputs), *carried_out])
    described = model.description
    _describe(described.input, inputs, carried_in)
    _describe(described.output, outputs, carried_out)
    described.metadata.userDefined[FORM_KEY] = FORM

    link_or_copy(_weights(source), new_weight_file(path))
    write_model(model, path)


def _weights(package: Path) -> Path:
    return package / DATA_FOLDER / COREML_FOLDER / WEIGHTS_FOLDER / WEIGHT_FILE


def _rename(operations: Sequence[Any], renamed: Mapping[str, str], source: Path) -> None:
    """Give values their new names wherever they are made and read."""
    rename_reads(operations, renamed)
    for operation in operations:
        for output in operation.outputs:
            if output.name.startswith(ADDED):
                raise ArtifactError(f"'{source}' has a value '{output.name}', a name of what Apple's form adds.")
            output.name = renamed.get(output.name, output.name)


def _front(adapter: Adapter, target: Target, taken: set[str]) -> tuple[Program | None, set[str]]:
    """The adapter's front and what it makes; none for a chunk that takes nothing of it."""
    if adapter.front is None:
        return None, set()
    front = adapter.front(target)
    made = {variable.name for variable in front.functions[MAIN].outputs}
    return (front, made) if made & taken else (None, set())


def _inputs_of(program: Program | None) -> set[str]:
    return set() if program is None else set(program.functions[MAIN].inputs)


def _operations(program: Program | None, target: Target) -> list[Any]:
    """The operations of a small program as protobuf, their constants written into them."""
    if program is None:
        return []
    from sfmobile.export.outlining import serialized

    _name_apart(program)
    function = serialized(program, target, {}).mlProgram.functions[MAIN]
    return list(function.block_specializations[function.opset].operations)


def _name_apart(program: Program) -> None:
    """Give a program's constants names that nothing else has."""
    for operation in program.functions[MAIN].operations:
        variable = operation.outputs[0]
        if operation.op_type == "const" and not variable.name.startswith(ADDED):
            operation.name = variable.name = f"{ADDED}{variable.name}"


def _set_type(type_: Any, record: TensorRecord) -> None:
    """A value's type in the program."""
    type_.dataType = getattr(schema.mil(), FEATURE_TYPES[record.dtype])
    type_.rank = len(record.shape)
    for size in record.shape:
        type_.dimensions.add().constant.size = size


def _describe(features: Any, records: Sequence[TensorRecord], carried: Sequence[str]) -> None:
    """The model's inputs or outputs: the component's anew, what chunks hand over as it was."""
    kept = {feature.name: feature for feature in features if feature.name in carried}
    copies = []
    for name in carried:
        copy = schema.model().Model().description.input.add()
        copy.CopyFrom(kept[name])
        copies.append(copy)
    del features[:]
    for record in records:
        feature = features.add(name=record.name, shortDescription=record.description)
        array = feature.type.multiArrayType
        array.shape.extend(record.shape)
        array.dataType = getattr(type(array), FEATURE_TYPES[record.dtype])
    features.extend(copies)
