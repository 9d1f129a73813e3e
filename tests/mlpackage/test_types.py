"""Data types against MIL's own schema and coremltools' weight writer; tensors whose dimensions vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter
from coremltools.proto import MIL_pb2

from sfmobile.mlpackage.types import DATA_TYPES, FLOAT_TYPES, INTEGER_TYPES, TensorType, tensor_type
from sfmobile.mlpackage.weight_file import WeightFile

# How MIL.proto calls what its reference calls fp16 and so on; what no coremltools writes is left out.
PROTO_NAMES = {"fp": "FLOAT", "bf": "BFLOAT", "uint": "UINT", "int": "INT"}
UNWRITTEN = {"UNUSED_TYPE", "FLOAT8E4M3FN", "FLOAT8E5M2"}


def proto_name(name: str) -> str:
    stem = name.rstrip("0123456789")
    return PROTO_NAMES.get(stem, stem.upper()) + name.removeprefix(stem)


def test_every_data_type_has_its_number_in_mils_schema() -> None:
    ours = {proto_name(row.name): row.number for row in DATA_TYPES.values()}
    assert ours == {name: number for name, number in MIL_pb2.DataType.items() if name not in UNWRITTEN}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("fp16", "fp16"), ("fp32", "float"), ("int8", "int8"), ("uint8", "uint8"), ("int16", "int16"),
        ("uint16", "uint16"), ("int32", "int32"), ("uint32", "uint32"),
    ],
)  # fmt: skip
def test_weight_files_code_data_types_as_coremltools_writes_them(name: str, write: str, tmp_path: Path) -> None:
    values = np.arange(9).astype(DATA_TYPES[name].numpy)
    writer = BlobWriter(str(tmp_path / "weight.bin"))
    raw = values.view(np.uint16) if name == "fp16" else values
    offset = getattr(writer, f"write_{write}_data")(raw)
    del writer
    blob = WeightFile(tmp_path / "weight.bin").blob(offset)
    assert blob.data_type == name
    assert len(blob.data) == TensorType(name, (9,)).bytes
    np.testing.assert_array_equal(blob.data.view(DATA_TYPES[name].numpy), values)


def test_every_type_is_a_float_an_integer_a_truth_or_a_text() -> None:
    assert FLOAT_TYPES | INTEGER_TYPES | {"bool", "string"} == set(DATA_TYPES)
    assert not FLOAT_TYPES & INTEGER_TYPES
    for row in DATA_TYPES.values():
        assert row.numpy is None or row.numpy.itemsize * 8 == row.bits


def test_a_type_reads_as_text() -> None:
    assert str(TensorType("fp16", (2, None, 64))) == "fp16[2, ?, 64]"


@pytest.mark.parametrize(
    ("data_type", "shape", "elements", "size"),
    [
        ("fp16", (), 1, 2),
        ("fp16", (2, None, 64), 128, 256),
        ("fp32", (None,), 1, 4),
        ("uint3", (3,), 3, 2),
        ("uint1", (9,), 9, 2),
        ("fp16", (0, 4), 0, 0),
        ("bool", (5,), 5, 5),
    ],
)
def test_sizes_count_a_dimension_that_varies_as_one_and_pack_what_is_narrow(
    data_type: str, shape: tuple[int | None, ...], elements: int, size: int
) -> None:
    type_ = TensorType(data_type, shape)
    assert (type_.elements, type_.bytes) == (elements, size)
    assert type_.sizes == tuple(1 if one is None else one for one in shape)


def test_a_dimension_that_varies_is_read_as_none() -> None:
    proto = MIL_pb2.ValueType()
    proto.tensorType.dataType = 10
    proto.tensorType.dimensions.add().constant.size = 2
    proto.tensorType.dimensions.add().unknown.variadic = False
    assert tensor_type(proto) == TensorType("fp16", (2, None))


def test_other_kinds_than_tensors_are_named() -> None:
    kind = MIL_pb2.ValueType()
    kind.listType.type.tensorType.dataType = 10
    with pytest.raises(ValueError, match="a value of kind 'listType'"):
        tensor_type(kind)
