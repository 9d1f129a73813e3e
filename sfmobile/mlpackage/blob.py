"""weight.bin: MIL's blob storage, format version 2, memory-mapped.

Layout (little-endian, every header and every blob aligned to 64 bytes):

    storage header   u32 count, u32 version = 2, 56 reserved bytes
    per blob         metadata at the offset the program names: u32 sentinel 0xDEADBEEF, u32 data type, u64 size in
                     bytes, u64 offset of the data, u64 padding in bits (sub-byte types), 32 reserved bytes
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

from sfmobile.errors import ArtifactError

_ALIGNMENT = 64
_SENTINEL = 0xDEADBEEF
_STORAGE_HEADER = struct.Struct("<II56x")
_METADATA = struct.Struct("<IIQQQ32x")

# MILBlob's BlobDataType, by the MIL names used throughout this package.
_DATA_TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    5: "bf16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


class BlobFile:
    """A memory-mapped weight file. Blobs are views of the mapping: nothing is copied."""

    def __init__(self, path: Path) -> None:
        """Map `path` and check its header. Raises `ArtifactError` if it is missing, truncated or of another version."""
        self.path = path
        try:
            with path.open("rb") as file:
                # A private mapping: torch takes only writable buffers without a warning; the file is never changed.
                self._map: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise ArtifactError(f"{path} with weights of the program is missing; export the bundle again.") from None
        except ValueError:  # An empty file can't be mapped.
            self._map = b""
        except OSError as error:
            raise ArtifactError(f"{path} can't be read: {error.strerror}.") from error
        if len(self._map) < _STORAGE_HEADER.size:
            raise self._broken(f"expected a header of {_STORAGE_HEADER.size} bytes, found {len(self._map)} bytes")
        self.count, version = _STORAGE_HEADER.unpack_from(self._map, 0)
        if version != 2:
            raise self._broken(f"expected blob storage version 2, found version {version}")

    def read(self, offset: int, data_type: str, byte_count: int) -> np.ndarray:
        """The raw bytes (uint8, 1-D) of the blob whose metadata lies at `offset`.

        `data_type` (a MIL name) and `byte_count` are what the program expects; anything else is an `ArtifactError`.
        """
        size = len(self._map)
        if offset % _ALIGNMENT or offset + _METADATA.size > size:
            raise self._broken(f"expected blob metadata at byte {offset}, found {size} bytes in the file")
        sentinel, type_code, stored_bytes, start, _ = _METADATA.unpack_from(self._map, offset)
        if sentinel != _SENTINEL:
            raise self._broken(f"expected the sentinel 0xdeadbeef at byte {offset}, found {sentinel:#010x}")
        stored_type = _DATA_TYPES.get(type_code, f"unknown type {type_code}")
        if stored_type != data_type:
            raise self._broken(f"expected {data_type} values at byte {offset}, found {stored_type}")
        if stored_bytes != byte_count:
            raise self._broken(f"expected {byte_count} bytes of values at byte {offset}, found {stored_bytes}")
        if start % _ALIGNMENT or start + stored_bytes > size:
            raise self._broken(f"expected {stored_bytes} bytes from byte {start} on, found {size} bytes in the file")
        return np.frombuffer(self._map, dtype=np.uint8, count=stored_bytes, offset=start)

    def _broken(self, found: str) -> ArtifactError:
        return ArtifactError(f"{self.path} is truncated or altered: {found}; export the bundle again.")
