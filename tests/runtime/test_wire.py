"""Messages as bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfmobile.runtime.wire import (
    LARGEST_LENGTH,
    Code,
    Reader,
    RequestError,
    pack_message,
    pack_string,
    pack_tensors,
)

arrays = hnp.arrays(
    dtype=st.sampled_from([np.dtype(np.float32), np.dtype(np.int32)]),
    shape=hnp.array_shapes(min_dims=0, max_dims=8, max_side=4),
    elements={"allow_nan": False},
)


@given(st.dictionaries(st.text(max_size=20), arrays, max_size=5))
def test_tensors_survive_the_way_there_and_back(tensors: dict[str, np.ndarray]) -> None:
    reader = Reader(memoryview(pack_tensors(tensors)))
    found = reader.tensors()
    reader.end()
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@given(st.binary(max_size=200))
def test_any_bytes_are_tensors_or_a_protocol_error(body: bytes) -> None:
    reader = Reader(memoryview(body))
    try:
        tensors = reader.tensors()
    except RequestError as error:
        assert error.code in (Code.PROTOCOL, Code.INPUT)
    else:
        assert pack_tensors(tensors) == body[: reader.offset]


def test_bytes_are_those_the_protocol_describes() -> None:
    value = np.array([[1.0, -2.0]], dtype=np.float32)
    expected = bytes.fromhex("0100 0200 6964 01 02 01000000 02000000".replace(" ", "")) + struct.pack("<2f", 1, -2)
    assert pack_tensors({"id": value}) == expected
    assert pack_message(3, 7, b"xy") == bytes.fromhex("07000000 03 07000000".replace(" ", "")) + b"xy"


def test_wide_values_travel_as_float32() -> None:
    packed = pack_tensors({"x": np.array([0.5, 2.0])})
    np.testing.assert_array_equal(Reader(memoryview(packed)).tensors()["x"], np.float32([0.5, 2.0]))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (struct.pack("<H", 65), "has 65 tensors; expected at most 64"),
        (struct.pack("<H", 1) + pack_string("x") + bytes([3, 0]), "dtype code 3 and rank 0"),
        (struct.pack("<H", 1) + pack_string("x") + bytes([1, 9]), "dtype code 1 and rank 9"),
        (struct.pack("<H", 1) + pack_string("x") + struct.pack("<BB2I", 1, 2, 1 << 31, 1 << 31), "The body ends"),
        (struct.pack("<H", 1) + pack_string("x") + struct.pack("<BB4I", 1, 4, 0, *[0xFFFFFFFF] * 3), "which can't be"),
        (struct.pack("<H", 1) + struct.pack("<H2s", 2, b"\xff\xff") + bytes([1, 0]), "isn't UTF-8"),
    ],
)
def test_broken_bodies_are_told_in_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        Reader(memoryview(body)).tensors()


def test_a_long_string_is_cut_between_characters() -> None:
    packed = pack_string("é" * 40000)
    (length,) = struct.unpack_from("<H", packed)
    assert length == len(packed) - 2 == 65534
    assert packed[2:].decode() == "é" * 32767


def test_a_reply_beyond_the_limit_is_an_error_instead() -> None:
    with pytest.raises(RequestError, match="a message has 268435456 at most"):
        pack_message(131, 1, bytes(LARGEST_LENGTH - 4))
