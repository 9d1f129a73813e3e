"""A written ML Program, looked at and put together anew on the level of its file: which operations read what.

Everything here works on the protobuf that Core ML itself reads, with weights left in their file: what is cut or merged
is exactly what was written and checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.package import COREML_FOLDER, MODEL_FILE, WEIGHTS_FOLDER, write_package_manifest
from sfmobile.mlpackage.weight_file import BLOB_METADATA, Blob, WeightReader, WeightWriter

WEIGHT_FILE = "weight.bin"
MAIN = "main"
# Bits of one value of each of MIL's data types.
BITS = {
    "BOOL": 8,
    "FLOAT16": 16,
    "FLOAT32": 32,
    "FLOAT64": 64,
    "BFLOAT16": 16,
    **{f"{sign}INT{bits}": bits for sign in ("", "U") for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}
DTYPES = {"FLOAT16": "float16", "FLOAT32": "float32", "INT32": "int32"}


def is_constant(operation: Any) -> bool:
    """Whether an operation computes nothing from inputs: a constant, or a compressed one."""
    return bool(operation.type == "const" or operation.type.startswith("constexpr_"))


def values(operation: Any) -> Iterator[Any]:
    """Every value written into an operation."""
    for bindings in operation.inputs.values():
        for argument in bindings.arguments:
            if argument.WhichOneof("binding") == "value":
                yield argument.value
    yield from operation.attributes.values()


def names_read(operation: Any) -> Iterator[str]:
    """Names of the values that an operation reads."""
    for bindings in operation.inputs.values():
        for argument in bindings.arguments:
            if argument.WhichOneof("binding") == "name":
                yield argument.name


@dataclass(frozen=True)
class TensorType:
    """Data type by MIL's name, and shape; a dimension that varies is None."""

    data_type: str
    shape: tuple[int | None, ...]

    @property
    def bytes(self) -> int:
        """Bytes of one tensor of this type; a dimension that varies counts as 1."""
        return math.prod(size or 1 for size in self.shape) * BITS.get(self.data_type, 0) // 8


def tensor_type(value_type: Any) -> TensorType:
    """The type of a value, or a type without a name for what isn't a tensor."""
    from coremltools.proto import MIL_pb2

    if value_type.WhichOneof("type") != "tensorType":
        return TensorType("", ())
    tensor = value_type.tensorType
    shape = tuple(
        dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else None
        for dimension in tensor.dimensions
    )
    return TensorType(MIL_pb2.DataType.Name(tensor.dataType), shape)


class ProgramFile:
    """The model file and the weight file of one package."""

    def __init__(self, package: Path) -> None:
        """Raises `ArtifactError` if the package can't be read or is no ML Program."""
        from coremltools.proto import Model_pb2
        from google.protobuf.message import DecodeError

        self.package = package
        self.folder = package / "Data" / COREML_FOLDER
        self.model: Any = Model_pb2.Model()
        try:
            self.model.ParseFromString((self.folder / MODEL_FILE).read_bytes())
        except (OSError, DecodeError) as error:
            raise ArtifactError(f"'{package}' can't be read as a package ({error}); export it again.") from error
        if self.model.WhichOneof("Type") != "mlProgram":
            raise ArtifactError(f"'{package}' holds no ML Program; export it again.")

    @cached_property
    def weights(self) -> WeightReader:
        """The weight file, mapped."""
        return WeightReader(self.folder / WEIGHTS_FOLDER / WEIGHT_FILE)

    def function(self, name: str = MAIN) -> Any:
        """One function of the program. Raises `ArtifactError` if there is none of that name."""
        functions = self.model.mlProgram.functions
        if name not in functions:
            raise ArtifactError(f"'{self.package}' has no function '{name}'; it has {', '.join(sorted(functions))}.")
        return functions[name]

    def block(self, name: str = MAIN) -> Any:
        """The operations of one function."""
        function = self.function(name)
        return function.block_specializations[function.opset]

    def blob(self, value: Any) -> Blob | None:
        """The blob that a value keeps in the weight file, if it does."""
        if value.WhichOneof("value") != "blobFileValue":
            return None
        return self.weights.blob(value.blobFileValue.offset)

    def stored_bytes(self, operation: Any) -> int:
        """Bytes of the weight file that belong to an operation."""
        sizes = (len(blob.data) for value in values(operation) if (blob := self.blob(value)) is not None)
        return sum(size + BLOB_METADATA.size for size in sizes)


def move_weights(source: ProgramFile, operations: Iterable[Any], weights: WeightWriter) -> None:
    """Copy the weights of `operations` from their package to another weight file, and let them point there."""
    for operation in operations:
        for value in values(operation):
            blob = source.blob(value)
            if blob is not None:
                value.blobFileValue.offset = weights.add(blob)


def write_model(model: Any, package: Path) -> None:
    """Finish the package whose weights stand in place: its model file and its listing."""
    (package / "Data" / COREML_FOLDER / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    write_package_manifest(package)


def new_weight_file(package: Path) -> Path:
    """Where the weights of the new package `package` go; makes its folders."""
    folder = package / "Data" / COREML_FOLDER / WEIGHTS_FOLDER
    folder.mkdir(parents=True)
    return folder / WEIGHT_FILE


def feature_tensor(feature: Any) -> TensorRecord:
    """An input or output of a model's description as the manifest records it."""
    from coremltools.proto import FeatureTypes_pb2

    array = feature.type.multiArrayType
    name = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
    return TensorRecord.model_validate(
        {
            "name": feature.name,
            "shape": tuple(array.shape),
            "dtype": DTYPES[name],
            "description": feature.shortDescription,
        }
    )
