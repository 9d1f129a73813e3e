"""MIL values: data types, tensor types, and constants, immediate or in weight.bin, as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.blob import BlobFile

# DataType numbers of MIL.proto.
_TYPE_NAMES = {
    1: "bool",
    2: "string",
    10: "fp16",
    11: "fp32",
    12: "fp64",
    13: "bf16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
_STORED_AS = {
    "bool": np.dtype(np.bool_),
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
    "fp64": np.dtype("<f8"),
    "int8": np.dtype(np.int8),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
}
_SUB_BYTE_BITS = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}
FLOAT_TYPES = frozenset({"fp16", "fp32", "fp64", "bf16"})


@dataclass(frozen=True)
class TensorType:
    """Type of a value: MIL data type name and shape; a dimension unknown until run time is None."""

    data_type: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.data_type}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def tensor_type(proto: Any) -> TensorType:
    """The `TensorType` of a MIL `ValueType` message. Raises `ValueError` for lists, states and other kinds."""
    kind = proto.WhichOneof("type")
    if kind != "tensorType":
        raise ValueError(f"a value of kind '{kind}'")
    tensor = proto.tensorType
    name = _TYPE_NAMES.get(tensor.dataType)
    if name is None:
        raise ValueError(f"data type number {tensor.dataType}")
    shape = tuple(
        int(size.constant.size) if size.WhichOneof("dimension") == "constant" else None for size in tensor.dimensions
    )
    return TensorType(name, shape)


def unpack_bits(packed: np.ndarray, bits: int, count: int, signed: bool = False) -> np.ndarray:
    """`count` integers of `bits` bits each from `packed` (uint8), least significant bit first across byte borders.

    Returns uint8 (int8 if `signed`), 1-D.
    """
    if bits == 8:
        values = packed[:count].copy()
    elif bits in (1, 2, 4):
        per_byte = 8 // bits
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
        values = ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count]
    else:
        # 3 and 6 bits: 24 bits (three bytes) hold a whole number of values.
        groups = -(-packed.size // 3)
        padded = np.zeros(groups * 3, dtype=np.uint8)
        padded[: packed.size] = packed
        wide = padded.reshape(-1, 3).astype(np.uint32)
        words = wide[:, 0] | (wide[:, 1] << 8) | (wide[:, 2] << 16)
        shifts32 = np.arange(24 // bits, dtype=np.uint32) * np.uint32(bits)
        values = ((words[:, None] >> shifts32) & np.uint32(2**bits - 1)).astype(np.uint8).reshape(-1)[:count]
    if not signed:
        return values
    # Sign extension: the top bit of the value is its sign.
    half = np.uint8(2 ** (bits - 1))
    return ((values ^ half).astype(np.int16) - np.int16(half)).astype(np.int8)


def _byte_count(data_type: str, elements: int) -> int:
    """Bytes that `elements` values of `data_type` take, packed."""
    if data_type in _SUB_BYTE_BITS:
        return -(-elements * _SUB_BYTE_BITS[data_type] // 8)
    if data_type == "bf16":
        return elements * 2
    return elements * _STORED_AS[data_type].itemsize


def _from_bytes(raw: np.ndarray, type_: TensorType, elements: int) -> np.ndarray:
    """Values of a raw uint8 array: a view where the type is a whole number of bytes."""
    shape = tuple(size or 0 for size in type_.shape)
    if type_.data_type in _SUB_BYTE_BITS:
        bits = _SUB_BYTE_BITS[type_.data_type]
        return unpack_bits(raw, bits, elements, signed=type_.data_type == "int4").reshape(shape)
    if type_.data_type == "bf16":
        wide = raw.view("<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    return raw.view(_STORED_AS[type_.data_type]).reshape(shape)


class WeightFiles:
    """The weight files of a package by the name a program uses ("@model_path/weights/weight.bin")."""

    def __init__(self, folder: Any) -> None:
        """`folder` (Path) is what "@model_path" stands for."""
        self._folder = folder
        self._open: dict[str, BlobFile] = {}

    def blob(self, name: str) -> BlobFile:
        """The mapped file; an `ArtifactError` if the name leads out of the package."""
        if name not in self._open:
            parts = name.split("/")
            if parts[0] != "@model_path" or any(part in ("", ".", "..") for part in parts):
                raise ArtifactError(f"{self._folder} names the weight file '{name}', which isn't inside the package.")
            self._open[name] = BlobFile(self._folder.joinpath(*parts[1:]))
        return self._open[name]


def read_value(proto: Any, weights: WeightFiles) -> np.ndarray | str:
    """A constant of the program: an array of its declared type (bf16 widened to float32), or a string.

    Arrays from weight.bin are views of the mapping. Raises `ArtifactError` for a broken weight file and
    `ValueError` (the caller knows the position) for a value no ML Program should hold.
    """
    type_ = tensor_type(proto.type)
    if None in type_.shape:
        raise ValueError(f"a constant of unknown shape {type_}")
    elements = math.prod(size or 0 for size in type_.shape)
    if proto.WhichOneof("value") == "blobFileValue":
        if type_.data_type not in _SUB_BYTE_BITS and type_.data_type not in (*_STORED_AS, "bf16"):
            raise ValueError(f"{type_} values in a weight file")
        blob = weights.blob(proto.blobFileValue.fileName)
        raw = blob.read(int(proto.blobFileValue.offset), type_.data_type, _byte_count(type_.data_type, elements))
        return _from_bytes(raw, type_, elements)
    if proto.immediateValue.WhichOneof("value") != "tensor":
        raise ValueError(f"an immediate value of kind '{proto.immediateValue.WhichOneof('value')}'")
    return _immediate(proto.immediateValue.tensor, type_, elements)


def _immediate(tensor: Any, type_: TensorType, elements: int) -> np.ndarray | str:
    """A value written into the program itself."""
    field = tensor.WhichOneof("value")
    if field is None:
        raise ValueError(f"an empty value of type {type_}")
    values = getattr(tensor, field).values
    if type_.data_type == "string":
        if elements != 1 or len(values) != 1:
            raise ValueError("a tensor of strings")
        return str(values[0])
    if field == "bytes":
        if len(values) != _byte_count(type_.data_type, elements):
            raise ValueError(f"{len(values)} bytes for a value of type {type_}")
        return _from_bytes(np.array(np.frombuffer(values, dtype=np.uint8)), type_, elements)
    if len(values) != elements:
        raise ValueError(f"{len(values)} numbers for a value of type {type_}")
    if type_.data_type not in _STORED_AS:
        raise ValueError(f"a value of type {type_} in field '{field}'")
    shape = tuple(size or 0 for size in type_.shape)
    return np.array(values, dtype=_STORED_AS[type_.data_type]).reshape(shape)
