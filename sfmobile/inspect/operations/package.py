"""What is inside a package: operations, weights, sizes, inputs and outputs, read without executing anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.digest import LISTING_FILE
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import StrictModel

if TYPE_CHECKING:
    import onnx

    from sfmobile.mlpackage.program import Constant, Program
    from sfmobile.mlpackage.types import TensorType


class TensorInspection(StrictModel):
    """An input or output as the package declares it; a dimension that varies is null."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class PackageInspection(StrictModel):
    """One package.

    operations: counts by kind, constants and decompression excluded. weights: float constants that operations read,
    with more than one element, each counted once however it is stored. bytes: all files; weight_bytes: of the weight
    file alone (ONNX: of those weights). bits_per_weight: weight_bytes per weight, lookup tables included.
    compressed_weights: those of the weights that are stored compressed (palettized, quantized).
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


def inspect_package(path: Path, function: str | None = None) -> PackageInspection:
    """Inspect an .mlpackage directory or an .onnx file. Raises `ArtifactError` if it is neither, or broken."""
    if path.suffix == ".onnx" and path.is_file():
        return _inspect_onnx(path)
    if not path.exists():
        raise ArtifactError(f"'{path}' doesn't exist; expected a bundle, an .mlpackage or an .onnx file.")
    if not (path / LISTING_FILE).is_file():
        raise ArtifactError(f"'{path}' is neither a bundle nor an .mlpackage nor an .onnx file.")
    from sfmobile.mlpackage.program import load_program

    return _inspect_program(load_program(path, function))


def _inspect_program(program: Program) -> PackageInspection:
    constants = _constants_read(program)
    weights = sum(constant.type.elements for constant in constants)
    files = {file: file.stat().st_size for file in program.package.rglob("*") if file.is_file()}
    weight_bytes = sum(size for file, size in files.items() if file.suffix == ".bin")
    return PackageInspection(
        package=program.package.name,
        format="mlprogram",
        opset=program.opset,
        inputs=tuple(_tensor(name, type_) for name, type_ in program.inputs.items()),
        outputs=tuple(_tensor(name, type_) for name, type_ in program.output_types().items()),
        operations=_histogram(operation.kind for operation in program.operations),
        weights=weights,
        bytes=sum(files.values()),
        weight_bytes=weight_bytes,
        bits_per_weight=weight_bytes * 8 / weights if weights else None,
        compressed_weights=sum(constant.type.elements for constant in constants if constant.compressed),
    )


def _constants_read(program: Program) -> list[Constant]:
    """Float constants of more than one element that operations read, each once."""
    read = {name for operation in program.operations for name in operation.reads()}
    return [
        constant
        for name, constant in program.constants.items()
        if name in read and constant.type.is_float and constant.type.elements > 1
    ]


def _tensor(name: str, type_: TensorType) -> TensorInspection:
    return TensorInspection(name=name, dtype=type_.data_type, shape=type_.shape)


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
