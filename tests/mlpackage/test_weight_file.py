"""weight.bin, whole and broken, against coremltools' own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader as BlobReader
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.weight_file import WeightFile, WeightFiles, WeightWriter

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
    file = WeightFile(path)
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
        WeightFile(path).read(first, data_type, size)


@pytest.mark.parametrize("offset", [0, 32, 128, 1 << 40])
def test_an_offset_without_metadata(written: tuple[Path, int, int], offset: int) -> None:
    with pytest.raises(ArtifactError, match=r"truncated or altered: expected (the sentinel|blob metadata)"):
        WeightFile(written[0]).read(offset, "fp32", 400)


def test_every_truncation_is_noticed(written: tuple[Path, int, int]) -> None:
    path, first, second = written
    whole = path.read_bytes()
    for size in (0, 10, 63, 64, 100, 127, 128, 500, second, second + 63, second + 64, second + 64 + 36):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="truncated or altered"):
            file = WeightFile(path)
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
        WeightFile(path).read(first, "fp32", 400)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.bin with weights of the program is missing"):
        WeightFile(tmp_path / "nowhere.bin")


def test_reading_never_changes_the_file(written: tuple[Path, int, int]) -> None:
    path, first, _ = written
    before = path.read_bytes()
    WeightFile(path).read(first, "fp32", 400)[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["weights/weight.bin", "@model_path/../weight.bin", "@model_path//weight.bin"])
def test_weight_files_lie_inside_the_package(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="isn't inside the package"):
        WeightFiles(tmp_path).file(name)


def test_equal_blobs_are_stored_once_and_read_back_by_coremltools(
    written: tuple[Path, int, int], tmp_path: Path
) -> None:
    path, first, second = written
    source = WeightFile(path)
    with WeightWriter(tmp_path / "copy.bin") as writer:
        places = [writer.add(source.blob(offset)) for offset in (first, second, first)]
    assert places[0] == places[2] != places[1]
    reader = BlobReader(str(tmp_path / "copy.bin"))
    np.testing.assert_array_equal(reader.read_float_data(places[0]), VALUES)
    np.testing.assert_array_equal(reader.read_uint8_data(places[1]), BYTES)
    assert WeightFile(tmp_path / "copy.bin").count == 2


def test_a_copy_of_all_blobs_in_order_is_the_file_itself(written: tuple[Path, int, int], tmp_path: Path) -> None:
    path, *offsets = written
    source = WeightFile(path)
    with WeightWriter(tmp_path / "copy.bin") as writer:
        assert [writer.add(source.blob(offset)) for offset in offsets] == offsets
    copy, whole = (tmp_path / "copy.bin").read_bytes(), path.read_bytes()
    assert copy[: len(whole)] == whole and not any(copy[len(whole) :])
