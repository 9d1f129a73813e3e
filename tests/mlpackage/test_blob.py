"""weight.bin, whole and broken, against coremltools' own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.blob import BlobFile

VALUES = np.arange(100, dtype=np.float32)
BYTES = np.arange(37, dtype=np.uint8)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, int, int]:
    """A file with two blobs, and their metadata offsets."""
    path = tmp_path / "weight.bin"
    writer = BlobWriter(str(path))
    offsets = writer.write_float_data(VALUES), writer.write_uint8_data(BYTES)
    del writer
    return path, *offsets


def test_blobs_are_read_as_written(written: tuple[Path, int, int]) -> None:
    path, first, second = written
    file = BlobFile(path)
    assert file.count == 2
    np.testing.assert_array_equal(file.read(first, "fp32", 400).view(np.float32), VALUES)
    np.testing.assert_array_equal(file.read(second, "uint8", 37), BYTES)


@pytest.mark.parametrize(
    ("data_type", "size", "found"),
    [
        ("fp16", 400, "expected fp16 values at byte 64, found fp32"),
        ("fp32", 404, "expected 404 bytes of values at byte 64, found 400"),
    ],
)
def test_another_type_or_size_than_the_program_expects(
    written: tuple[Path, int, int], data_type: str, size: int, found: str
) -> None:
    path, first, _ = written
    with pytest.raises(ArtifactError, match=rf"weight\.bin is truncated or altered: {found}"):
        BlobFile(path).read(first, data_type, size)


@pytest.mark.parametrize("offset", [0, 32, 128, 1 << 40])
def test_an_offset_without_metadata(written: tuple[Path, int, int], offset: int) -> None:
    with pytest.raises(ArtifactError, match=r"truncated or altered: expected (the sentinel|blob metadata)"):
        BlobFile(written[0]).read(offset, "fp32", 400)


def test_every_truncation_is_noticed(written: tuple[Path, int, int]) -> None:
    path, first, second = written
    whole = path.read_bytes()
    for size in (0, 10, 63, 64, 100, 127, 128, 500, second, second + 63, second + 64, second + 64 + 36):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="truncated or altered"):
            file = BlobFile(path)
            file.read(first, "fp32", 400)
            file.read(second, "uint8", 37)


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        (4, 1, "expected blob storage version 2, found version 1"),
        (64, 0, "expected the sentinel 0xdeadbeef at byte 64, found 0xdeadbe00"),
        (68, 77, "found unknown type 77"),
        (80, 129, "expected 400 bytes from byte 129 on"),
    ],
)
def test_every_altered_header_field_is_noticed(
    written: tuple[Path, int, int], place: int, value: int, found: str
) -> None:
    path, first, _ = written
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=found):
        BlobFile(path).read(first, "fp32", 400)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.bin with weights of the program is missing"):
        BlobFile(tmp_path / "nowhere.bin")


def test_reading_never_changes_the_file(written: tuple[Path, int, int]) -> None:
    path, first, _ = written
    before = path.read_bytes()
    BlobFile(path).read(first, "fp32", 400)[:] = 0
    assert path.read_bytes() == before
