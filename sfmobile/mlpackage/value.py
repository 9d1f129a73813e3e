"""Constants of a program, written into it or kept in a weight file, as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfmobile.mlpackage.types import DATA_TYPES, TensorType, tensor_type
from sfmobile.mlpackage.weight_file import WeightFiles


def read_value(proto: Any, weights: WeightFiles) -> np.ndarray | str:
    """A constant of the program: an array of its declared type (bf16 widened to float32), or a string.

    A list of strings or numbers comes as an array of them.

    Arrays from a weight file are views of the mapping. Raises `ArtifactError` for a broken weight file and
    `ValueError` (the caller knows the position) for a value no ML Program should hold.
    """
    if proto.type.WhichOneof("type") == "listType":
        return np.array([_element(item, weights) for item in proto.immediateValue.list.values])
    type_ = tensor_type(proto.type)
    if None in type_.shape:
        raise ValueError(f"a constant of unknown shape {type_}")
    if proto.WhichOneof("value") == "blobFileValue":
        if type_.data_type == "string":
            raise ValueError(f"{type_} values in a weight file")
        place = proto.blobFileValue
        return _from_bytes(weights.file(place.fileName).read(int(place.offset), type_.data_type, type_.bytes), type_)
    if proto.immediateValue.WhichOneof("value") != "tensor":
        raise ValueError(f"an immediate value of kind '{proto.immediateValue.WhichOneof('value')}'")
    return _immediate(proto.immediateValue.tensor, type_)


def _element(proto: Any, weights: WeightFiles) -> Any:
    """One element of a constant list: a string or a number."""
    value = read_value(proto, weights)
    if isinstance(value, np.ndarray) and value.size != 1:
        raise ValueError(f"a list of arrays of {value.size} values")
    return value.item() if isinstance(value, np.ndarray) else value


def _immediate(tensor: Any, type_: TensorType) -> np.ndarray | str:
    """A value written into the program itself."""
    field = tensor.WhichOneof("value")
    if field is None:
        raise ValueError(f"an empty value of type {type_}")
    values = getattr(tensor, field).values
    if type_.data_type == "string":
        if type_.elements != 1 or len(values) != 1:
            raise ValueError("a tensor of strings")
        return str(values[0])
    if field == "bytes":
        if len(values) != type_.bytes:
            raise ValueError(f"{len(values)} bytes for a value of type {type_}")
        return _from_bytes(np.array(np.frombuffer(values, dtype=np.uint8)), type_)
    if len(values) != type_.elements:
        raise ValueError(f"{len(values)} numbers for a value of type {type_}")
    dtype = DATA_TYPES[type_.data_type].numpy
    if dtype is None:
        raise ValueError(f"a value of type {type_} in field '{field}'")
    return np.array(values, dtype=dtype).reshape(type_.sizes)


def _from_bytes(raw: np.ndarray, type_: TensorType) -> np.ndarray:
    """Values of a raw uint8 array: a view where the type is a whole number of bytes."""
    kind = DATA_TYPES[type_.data_type]
    if kind.numpy is not None:
        return raw.view(kind.numpy).reshape(type_.sizes)
    if kind.name == "bf16":
        wide = raw.view("<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(type_.sizes)
    return unpack_bits(raw, kind.bits, type_.elements, signed=kind.name == "int4").reshape(type_.sizes)


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
