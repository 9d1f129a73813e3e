"""Values: packed integers, immediate constants, constants in the weight file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.optimize._utils import pack_elements_into_bits
from coremltools.proto import MIL_pb2
from hypothesis import given
from hypothesis import strategies as st

from sfmobile.mlpackage.value import read_value, unpack_bits
from sfmobile.mlpackage.weight_file import WeightFiles
from tests.runtime.mil.programs import evaluate, make_program


@given(bits=st.sampled_from([1, 2, 3, 4, 6, 8]), count=st.integers(1, 200), seed=st.integers(0, 99))
def test_unpacking_undoes_coremltools_packing(bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack_elements_into_bits(values, bits)
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), values)


@given(count=st.integers(1, 100), seed=st.integers(0, 99))
def test_signed_four_bit_integers(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-8, 8, count).astype(np.int8)
    packed = pack_elements_into_bits(values, 4)
    unpacked = unpack_bits(packed, 4, count, signed=True)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, values)


CONSTANTS = [
    np.array([[1.5, -2.0, 65504.0]], dtype=np.float16),
    np.arange(24, dtype=np.float16).reshape(2, 3, 4),
    np.array([1e-30, 3.5], dtype=np.float32),
    np.arange(24, dtype=np.float32).reshape(4, 6),
    np.array([[-7, 2**31 - 1]], dtype=np.int32),
    np.arange(-20, 20, dtype=np.int32).reshape(5, 8),
    np.array([True, False, True]),
    np.array(3.25, dtype=np.float32),
]


@pytest.mark.parametrize("target", ["ios16", "ios17", "ios18"])
@pytest.mark.parametrize("value", CONSTANTS, ids=lambda value: f"{value.dtype}{list(value.shape)}")
def test_constants_in_the_program_and_in_the_weight_file(value: np.ndarray, target: str) -> None:
    """Fewer than ten elements are written into the program, more into weight.bin (int32 from iOS 18 on)."""
    program = make_program(lambda a: mb.identity(x=mb.const(val=value)), {"a": np.zeros(1, np.float32)}, target)
    found = [constant.load() for constant in program.constants.values() if constant.type.shape == value.shape]
    assert len(found) == 1
    assert isinstance(found[0], np.ndarray)
    assert found[0].dtype == value.dtype
    np.testing.assert_array_equal(found[0], value)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_small_integer_constants(dtype: type) -> None:
    value = np.array([0, 1, np.iinfo(dtype).max, np.iinfo(dtype).min], dtype=dtype)
    (found,) = evaluate(
        lambda a: mb.cast(x=mb.identity(x=mb.const(val=value)), dtype="int32"), np.zeros(1, np.float32), target="ios17"
    )
    np.testing.assert_array_equal(found, value.astype(np.int32))


def broken_value(**fields: Any) -> MIL_pb2.Value:
    value = MIL_pb2.Value()
    value.type.tensorType.dataType = fields.get("data_type", 10)
    for size in fields.get("shape", (3,)):
        value.type.tensorType.dimensions.add().constant.size = size
    value.immediateValue.tensor.bytes.values = fields.get("content", b"")
    return value


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"content": b"12345"}, r"5 bytes for a value of type fp16\[3\]"),
        ({"data_type": 99}, "data type number 99"),
        ({"data_type": 2, "content": b"ab"}, "a tensor of strings"),
    ],
)
def test_values_no_program_should_hold(fields: dict[str, Any], found: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=found):
        read_value(broken_value(**fields), WeightFiles(tmp_path))
