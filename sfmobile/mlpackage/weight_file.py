"""weight.bin: MIL's blob storage, format version 2, read from a mapping and written blob by blob.

Layout (little-endian, every header and every blob aligned to 64 bytes):

    storage header   u32 count, u32 version = 2, 56 reserved bytes
    per blob         metadata at the offset the program names: u32 sentinel 0xDEADBEEF, u32 data type, u64 size in
                     bytes, u64 offset of the data, u64 padding in bits (sub-byte types), 32 reserved bytes

Blobs are copied from file to file as they are, so memory stays small whatever the size.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import Self

from sfmobile.errors import ArtifactError
from sfmobile.files import open_regular
from sfmobile.mlpackage.types import DATA_TYPES

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
STORAGE_HEADER = struct.Struct("<II56x")
BLOB_METADATA = struct.Struct("<IIQQQ32x")
# What weight files are named by in a program, and what stands for the folder of its model file there.
MODEL_PATH = "@model_path"

_POINTER = b"version https://git-lfs.github.com/spec/"
_NAMES = {row.blob: row.name for row in DATA_TYPES.values() if row.blob is not None}


class MissingWeights(ArtifactError):
    """A weight file isn't there, or only a note of where it is: the program itself can still be read."""


@dataclass(frozen=True)
class Blob:
    """One blob of a mapped file.

    code: MILBlob's data type. padding: unused bits at the end (types below a byte). data: uint8, 1-D, a view.
    """

    code: int
    padding: int
    data: np.ndarray

    @property
    def data_type(self) -> str:
        """Its MIL data type, or "unknown type" with its code."""
        return _NAMES.get(self.code, f"unknown type {self.code}")

    def key(self) -> tuple[int, int, bytes]:
        """Equal for blobs of one type and content."""
        return self.code, len(self.data), hashlib.sha256(self.data.data).digest()


def check_pointer(path: Path) -> None:
    """Raise `MissingWeights` if a file is only Git LFS's note of where it is."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise MissingWeights(
                f"{path} is a pointer of Git LFS in place of the file itself; run `git lfs pull` in its repository."
            )


class WeightFile:
    """A memory-mapped weight file. Blobs are views of the mapping: nothing is copied."""

    def __init__(self, path: Path) -> None:
        """Map `path` and check its header. Raises `ArtifactError` if it is missing, truncated or of another version."""
        self.path = path
        try:
            check_pointer(path)
            with open_regular(path) as file:
                # A private mapping: torch takes only writable buffers without a warning; the file is never changed.
                self._map: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise MissingWeights(
                f"{path} with weights of the program is missing; copy or download the whole folder anew, or export it "
                "again."
            ) from None
        except ValueError:  # An empty file can't be mapped.
            self._map = b""
        except OSError as error:
            raise ArtifactError(f"{path} can't be read: {error.strerror}.") from error
        if len(self._map) < STORAGE_HEADER.size:
            raise self._broken(f"expected a header of {STORAGE_HEADER.size} bytes, found {len(self._map)} bytes")
        self.count, version = STORAGE_HEADER.unpack_from(self._map, 0)
        if version != VERSION:
            raise self._broken(f"expected blob storage version {VERSION}, found version {version}")

    def blob(self, offset: int) -> Blob:
        """The blob whose metadata lies at `offset`. Raises `ArtifactError` if there is none."""
        size = len(self._map)
        if offset % ALIGNMENT or offset + BLOB_METADATA.size > size:
            raise self._broken(f"expected blob metadata at byte {offset}, found {size} bytes in the file")
        sentinel, code, stored, start, padding = BLOB_METADATA.unpack_from(self._map, offset)
        if sentinel != SENTINEL:
            raise self._broken(f"expected the sentinel {SENTINEL:#x} at byte {offset}, found {sentinel:#010x}")
        if start % ALIGNMENT or start + stored > size:
            raise self._broken(f"expected {stored} bytes from byte {start} on, found {size} bytes in the file")
        return Blob(code, padding, np.frombuffer(self._map, dtype=np.uint8, count=stored, offset=start))

    def read(self, offset: int, data_type: str, byte_count: int) -> np.ndarray:
        """The raw bytes (uint8, 1-D) of the blob whose metadata lies at `offset`.

        `data_type` (a MIL name) and `byte_count` are what the program expects; anything else is an `ArtifactError`.
        """
        blob = self.blob(offset)
        if blob.data_type != data_type:
            raise self._broken(f"expected {data_type} values at byte {offset}, found {blob.data_type}")
        if len(blob.data) != byte_count:
            raise self._broken(f"expected {byte_count} bytes of values at byte {offset}, found {len(blob.data)}")
        return blob.data

    def _broken(self, found: str) -> ArtifactError:
        return ArtifactError(f"{self.path} is truncated or altered: {found}; export the bundle again.")


class WeightFiles:
    """The weight files of a package by the name a program uses ("@model_path/weights/weight.bin")."""

    def __init__(self, folder: Path) -> None:
        """`folder` is what "@model_path" stands for."""
        self._folder = folder
        self._open: dict[str, WeightFile] = {}

    def file(self, name: str) -> WeightFile:
        """The mapped file; an `ArtifactError` if the name leads out of the package."""
        if name not in self._open:
            parts = name.split("/")
            if parts[0] != MODEL_PATH or any(part in ("", ".", "..") for part in parts):
                raise ArtifactError(f"{self._folder} names the weight file '{name}', which isn't inside the package.")
            self._open[name] = WeightFile(self._folder.joinpath(*parts[1:]))
        return self._open[name]


class _Checksum:
    """SHA-256 of pieces in their order, taken on a thread of its own, which a few of them may wait for."""

    WAITING = 4

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "checksum")
        self._running: deque[Future[None]] = deque()

    def update(self, piece: bytes | memoryview) -> None:
        """Take a piece in; it must not be changed any more."""
        self._running.append(self._thread.submit(self._digest.update, piece))
        if len(self._running) > self.WAITING:
            self._running.popleft().result()

    def hexdigest(self) -> str:
        """Of all pieces so far."""
        while self._running:
            self._running.popleft().result()
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


class WeightWriter:
    """Writes a weight file. Use it as a context manager.

    once: blobs that are equal are stored in one place. count: how many blobs there will be, where that is known: then
    the header needs no second look, and `sha256` is made as the file is written.
    """

    def __init__(self, path: Path, once: bool = True, count: int | None = None) -> None:
        self._once = once
        self._expected = count
        self._checksum = None if count is None else _Checksum()
        self._file = path.open("wb")
        self._put(STORAGE_HEADER.pack(count or 0, VERSION))
        self._count = 0
        self._places: dict[tuple[int, int, bytes], int] = {}

    @property
    def sha256(self) -> str | None:
        """Hexadecimal SHA-256 of the file once it is closed; None if the number of blobs wasn't known before."""
        return None if self._checksum is None else self._checksum.hexdigest()

    def add(self, blob: Blob) -> int:
        """Store `blob`, unless an equal one is stored already; returns the offset to name in a program."""
        if not self._once:
            return self._write(blob)
        key = blob.key()
        if key not in self._places:
            self._places[key] = self._write(blob)
        return self._places[key]

    def _write(self, blob: Blob) -> int:
        place = self._file.tell()
        padding = -place % ALIGNMENT
        place += padding
        start = place + BLOB_METADATA.size
        self._put(
            bytes(padding) + BLOB_METADATA.pack(SENTINEL, blob.code, len(blob.data), start, blob.padding),
            blob.data.data,
        )
        self._count += 1
        return place

    def _put(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self._file.write(piece)
            if self._checksum is not None:
                self._checksum.update(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._expected is None:
            self._file.seek(0)
            self._file.write(STORAGE_HEADER.pack(self._count, VERSION))
        self._file.close()
        if self._checksum is not None:
            self._checksum.close()
        if error is None and self._expected not in (None, self._count):
            raise RuntimeError(f"{self._expected} blobs were announced and {self._count} written")
