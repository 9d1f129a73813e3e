"""weight.bin, copied blob by blob: for taking a package apart and for putting packages together.

Blobs are copied as they are, from a mapping of the source, so memory stays small whatever the size. The format is
MIL's blob storage, version 2: a storage header, then for each blob its metadata and its data, all aligned to 64 bytes.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sfmobile.errors import ArtifactError

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
STORAGE_HEADER = struct.Struct("<II56x")  # number of blobs, version
BLOB_METADATA = struct.Struct("<IIQQQ32x")  # sentinel, data type, bytes, place of the data, padding in bits


@dataclass(frozen=True)
class Blob:
    """One blob of a mapped file. data_type: MILBlob's code; padding: unused bits at the end (types below a byte)."""

    data_type: int
    padding: int
    data: memoryview

    def key(self) -> tuple[int, int, bytes]:
        """Equal for blobs of one type and content."""
        return self.data_type, len(self.data), hashlib.sha256(self.data).digest()


class WeightReader:
    """Blobs of one weight file by the offset that a program names."""

    def __init__(self, path: Path) -> None:
        """Raises `ArtifactError` if the file is missing or no blob storage."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError) as error:  # An empty file can't be mapped.
            raise ArtifactError(f"{path} is missing or empty; export the bundle again.") from error
        if len(self._view) < STORAGE_HEADER.size or STORAGE_HEADER.unpack_from(self._view)[1] != VERSION:
            raise ArtifactError(f"{path} is no weight file of version {VERSION}; export the bundle again.")

    def blob(self, offset: int) -> Blob:
        """The blob whose metadata lies at `offset`. Raises `ArtifactError` if there is none."""
        if offset % ALIGNMENT == 0 and offset + BLOB_METADATA.size <= len(self._view):
            sentinel, data_type, size, start, padding = BLOB_METADATA.unpack_from(self._view, offset)
            if sentinel == SENTINEL and start + size <= len(self._view):
                return Blob(data_type, padding, self._view[start : start + size])
        raise ArtifactError(
            f"{self.path} is truncated or altered: no weight at byte {offset}; export the bundle again."
        )


class WeightWriter:
    """Writes a weight file; equal blobs are stored once. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(STORAGE_HEADER.pack(0, VERSION))
        self._count = 0
        self._places: dict[tuple[int, int, bytes], int] = {}

    def add(self, blob: Blob) -> int:
        """Store `blob`, unless an equal one is stored already; returns the offset to name in a program."""
        key = blob.key()
        if key not in self._places:
            place = self._file.tell()
            start = place + BLOB_METADATA.size
            self._file.write(BLOB_METADATA.pack(SENTINEL, blob.data_type, len(blob.data), start, blob.padding))
            self._file.write(blob.data)
            self._file.write(bytes(-self._file.tell() % ALIGNMENT))
            self._places[key] = place
            self._count += 1
        return self._places[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.seek(0)
            self._file.write(STORAGE_HEADER.pack(self._count, VERSION))
        self._file.close()
