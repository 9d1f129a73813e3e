"""What is inside a package: operations, weights, sizes, inputs and outputs, read without executing anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.digest import LISTING_FILE
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.files import StrictModel
from sfmobile.mlpackage.container import PIPELINES, Container, no_program, open_container, stage_containers
from sfmobile.mlpackage.description import Array, Image, describe
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import blocks_of, read_program

if TYPE_CHECKING:
    import onnx

    from sfmobile.mlpackage.description import Feature
    from sfmobile.mlpackage.program import Constant, Program
    from sfmobile.mlpackage.types import TensorType


class TensorInspection(StrictModel):
    """An input, output or state as the package declares it; a dimension that varies is null.

    picture: the order of its colours, where it is declared as one. allowed: the shapes or sizes it may have, where it
    has several. default: the shape it has unless asked otherwise, if some vary. optional: it may be left out.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    picture: str | None = None
    allowed: str | None = None
    default: tuple[int, ...] | None = None
    optional: bool = False


class PackageInspection(StrictModel):
    """One package.

    operations: counts by kind, constants and decompression excluded. weights: float constants that operations read,
    with more than one element, each counted once however it is stored. bytes: all files; weight_bytes: of the weight
    file alone (ONNX: of those weights). bits_per_weight: weight_bytes per weight, lookup tables included.
    compressed_weights: those of the weights that are stored compressed (palettized, quantized).
    function, functions: the one inspected and all there are. states: what it keeps between calls.
    """

    package: str
    format: str
    opset: str
    inputs: tuple[TensorInspection, ...]
    outputs: tuple[TensorInspection, ...]
    operations: dict[str, int]
    weights: int
    bytes: int
    weight_bytes: int
    bits_per_weight: float | None
    compressed_weights: int
    function: str | None = None
    functions: tuple[str, ...] = ()
    states: tuple[TensorInspection, ...] = ()


def inspect_package(path: Path, function: str | None = None) -> PackageInspection:
    """Inspect one function of an ML Program (its default one unless named), or an .onnx file.

    Raises `ArtifactError` if it is neither, or broken.
    """
    if path.suffix == ".onnx" and path.is_file():
        return _inspect_onnx(path)
    return _inspect_program(Package(_opened(path)), function)


def inspect_packages(path: Path) -> dict[str, PackageInspection]:
    """All there is in a file or folder that is no bundle, by label: its default function under its own name, further
    functions and the programs of a pipeline each with theirs added. Raises as `inspect_package` does."""
    if path.suffix == ".onnx" and path.is_file():
        return {path.name: _inspect_onnx(path)}
    container = _opened(path)
    if container.kind not in PIPELINES:
        package = Package(container)
        others = [name for name in package.functions if name != package.default_function]
        found = {path.name: _inspect_program(package, None)}
        return {**found, **{f"{path.name} {name}": _inspect_program(package, name) for name in others}}
    stages = stage_containers(container)
    programs = {place: stage for place, stage in enumerate(stages, start=1) if stage.kind == "mlProgram"}
    if not programs:
        raise no_program(path, container.kind)
    return {
        f"{path.name} {place}/{len(stages)}": _inspect_program(Package(stage), None)
        for place, stage in programs.items()
    }


def _opened(path: Path) -> Container:
    if not path.exists():
        raise ArtifactError(f"'{path}' doesn't exist; expected a bundle, an .mlpackage or an .onnx file.")
    if path.suffix == ".aimodel":
        raise UsageError(
            f"'{path}' is an .aimodel, whose operations aren't listed here; inspect the export without --format coreai."
        )
    if path.suffix not in (".mlmodel", ".mlmodelc") and not (path / LISTING_FILE).is_file():
        raise ArtifactError(f"'{path}' is neither a bundle nor an .mlpackage nor an .onnx file.")
    return open_container(path)


def _inspect_program(package: Package, function: str | None) -> PackageInspection:
    program = read_program(package, function)
    description = describe(package.model, function)
    constants = _constants_read(program)
    weights = sum(constant.type.elements for constant in constants)
    root = program.package
    files = {file: file.stat().st_size for file in ([root] if root.is_file() else root.rglob("*")) if file.is_file()}
    weight_bytes = sum(size for file, size in files.items() if file.suffix == ".bin")
    return PackageInspection(
        package=program.package.name,
        format="mlprogram",
        opset=program.opset,
        inputs=tuple(_tensor(name, type_, description.inputs.get(name)) for name, type_ in program.inputs.items()),
        outputs=tuple(
            _tensor(name, type_, description.outputs.get(name)) for name, type_ in program.output_types().items()
        ),
        operations=_histogram(operation.kind for block in blocks_of(program) for operation in block.operations),
        weights=weights,
        bytes=sum(files.values()),
        weight_bytes=weight_bytes,
        bits_per_weight=weight_bytes * 8 / weights if weights else None,
        compressed_weights=sum(constant.type.elements for constant in constants if constant.compressed),
        function=program.function,
        functions=package.functions,
        states=tuple(_tensor(name, type_, None) for name, type_ in program.states.items()),
    )


def _constants_read(program: Program) -> list[Constant]:
    """Float constants of more than one element that operations read, each once, those in loops included."""
    found: dict[str, Constant] = {}
    for block in blocks_of(program):
        read = {name for operation in block.operations for name in operation.reads()}
        found.update({name: constant for name, constant in block.constants.items() if name in read})
    return [constant for constant in found.values() if constant.type.is_float and constant.type.elements > 1]


def _tensor(name: str, type_: TensorType, feature: Feature | None) -> TensorInspection:
    kind = None if feature is None else feature.kind
    varies = None in type_.shape
    picture, allowed = None, None
    default: tuple[int, ...] | None = None
    if isinstance(kind, Image):
        picture, allowed = kind.layout, kind.sizes() if kind.ranges or kind.choices else None
        default = (1, kind.channels, *kind.size) if varies else None
    elif isinstance(kind, Array):
        allowed = kind.shapes() if kind.ranges or kind.choices else None
        default = kind.shape if varies and kind.shape else None
    return TensorInspection(
        name=name,
        dtype=type_.data_type,
        shape=type_.shape,
        picture=picture,
        allowed=allowed,
        default=default,
        optional=feature is not None and feature.optional,
    )


def _histogram(kinds: Iterable[str]) -> dict[str, int]:
    """Counts, most frequent first."""
    return dict(sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0])))


def _onnx_tensor(value: onnx.ValueInfoProto) -> TensorInspection:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    known = onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type in known else "unknown type"
    return TensorInspection(name=value.name, dtype=dtype, shape=shape)


def _inspect_onnx(path: Path) -> PackageInspection:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UnavailableError(
            f"Reading '{path}' needs the package onnx ({error}); run pip install 'sfmobile[onnx]'."
        ) from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except DecodeError as error:
        raise ArtifactError(f"'{path}' is truncated or altered: {error}; export it again.") from error
    widths = {
        onnx.TensorProto.FLOAT: 4,
        onnx.TensorProto.FLOAT16: 2,
        onnx.TensorProto.BFLOAT16: 2,
        onnx.TensorProto.DOUBLE: 8,
    }
    sizes = [
        (elements, widths[tensor.data_type])
        for tensor in graph.initializer
        if tensor.data_type in widths and (elements := math.prod(tensor.dims)) > 1
    ]
    weights = sum(elements for elements, _ in sizes)
    weight_bytes = sum(elements * width for elements, width in sizes)
    external = {
        entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    total = path.stat().st_size + sum((path.parent / name).stat().st_size for name in external)
    stored = {tensor.name for tensor in graph.initializer}
    return PackageInspection(
        package=path.name,
        format="onnx",
        opset="",
        inputs=tuple(_onnx_tensor(value) for value in graph.input if value.name not in stored),
        outputs=tuple(_onnx_tensor(value) for value in graph.output),
        operations=_histogram(node.op_type for node in graph.node),
        weights=weights,
        bytes=total,
        weight_bytes=weight_bytes,
        bits_per_weight=weight_bytes * 8 / weights if weights else None,
        compressed_weights=0,
    )
