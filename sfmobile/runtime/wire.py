"""Messages of the worker's pipe protocol as bytes; `sfmobile.runtime.worker` describes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from math import prod

import numpy as np

MAGIC = b"SFMPIPE\n"
VERSION = 1
HELLO = struct.Struct("<8sI")
HEADER = struct.Struct("<IBI")
LENGTH = struct.Struct("<I")
# Kind and id: what a length counts besides the body.
SMALLEST_LENGTH = 5
LARGEST_LENGTH = 1 << 28
LARGEST_COUNT = 64
LARGEST_RANK = 8


class Kind(IntEnum):
    """Kinds of messages; a reply is its request + 128."""

    DESCRIBE = 1
    LOAD = 2
    PREDICT = 3
    UNLOAD = 4
    ERROR = 255


class Code(IntEnum):
    """Error codes."""

    PROTOCOL = 1
    COMPONENT = 2
    NOT_LOADED = 3
    INPUT = 4
    ARTIFACT = 5
    UNAVAILABLE = 6
    INTERNAL = 7


class DType(IntEnum):
    """Codes of element types."""

    FLOAT32 = 1
    INT32 = 2


_NUMPY_TYPES = {DType.FLOAT32: np.dtype("<f4"), DType.INT32: np.dtype("<i4")}


class RequestError(Exception):
    """A request that gets an `error` for its reply."""

    def __init__(self, code: Code, sentence: str, *, fatal: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.fatal = fatal


@dataclass
class Reader:
    """Reads a body from its start. Whatever it lacks is a `RequestError`."""

    body: memoryview
    offset: int = 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if self.offset + count > len(self.body):
            raise RequestError(
                Code.PROTOCOL,
                f"The body ends after {len(self.body)} bytes; expected {count} more from byte {self.offset} on.",
            )
        self.offset += count
        return self.body[self.offset - count : self.offset]

    def number(self, layout: str) -> int:
        """One unsigned integer: "B", "H" or "I"."""
        size = struct.calcsize("<" + layout)
        return int(struct.unpack("<" + layout, self.take(size))[0])

    def string(self) -> str:
        """A string with its length in front."""
        raw = bytes(self.take(self.number("H")))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(Code.PROTOCOL, "A string of the body isn't UTF-8.") from None

    def tensors(self) -> dict[str, np.ndarray]:
        """Tensors by name: views of the body."""
        count = self.number("H")
        if count > LARGEST_COUNT:
            raise RequestError(Code.PROTOCOL, f"The body has {count} tensors; expected at most {LARGEST_COUNT}.")
        tensors: dict[str, np.ndarray] = {}
        for _ in range(count):
            name = self.string()
            code, rank = self.number("B"), self.number("B")
            if code not in _NUMPY_TYPES or rank > LARGEST_RANK:
                raise RequestError(
                    Code.PROTOCOL,
                    f"Tensor '{name}' has dtype code {code} and rank {rank}; expected dtype 1 or 2 and rank 0 to "
                    f"{LARGEST_RANK}.",
                )
            shape = tuple(self.number("I") for _ in range(rank))
            if name in tensors:
                raise RequestError(Code.INPUT, f"Input '{name}' is given twice; expected it once.")
            dtype = _NUMPY_TYPES[DType(code)]
            data = np.frombuffer(self.take(prod(shape) * dtype.itemsize), dtype)
            try:
                tensors[name] = data.reshape(shape)
            # Nothing at all, beside dimensions whose product numpy can't count.
            except ValueError:
                raise RequestError(Code.PROTOCOL, f"Tensor '{name}' has the shape {shape}, which can't be.") from None
        return tensors

    def end(self) -> None:
        """Nothing may follow."""
        if self.offset != len(self.body):
            raise RequestError(
                Code.PROTOCOL, f"The body has {len(self.body)} bytes; expected {self.offset} for this request."
            )


def pack_string(text: str) -> bytes:
    """A string with its length in front; an overlong one is cut."""
    raw = text.encode("utf-8")[:0xFFFF]
    # The cut may have split a character.
    raw = raw.decode("utf-8", errors="ignore").encode("utf-8")
    return struct.pack("<H", len(raw)) + raw


def pack_tensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Tensors as a body carries them: int32 as it is, everything else as float32."""
    parts = [struct.pack("<H", len(tensors))]
    for name, value in tensors.items():
        code = DType.INT32 if value.dtype == np.int32 else DType.FLOAT32
        dims = struct.pack(f"<BB{value.ndim}I", code, value.ndim, *value.shape)
        parts += [pack_string(name), dims, np.ascontiguousarray(value, dtype=_NUMPY_TYPES[code]).tobytes()]
    return b"".join(parts)


def pack_message(kind: int, request: int, body: bytes) -> bytes:
    """A whole message. Raises `RequestError` if the body is too large to be one."""
    length = SMALLEST_LENGTH + len(body)
    if length > LARGEST_LENGTH:
        raise RequestError(
            Code.INTERNAL, f"The reply would have {length} bytes; a message has {LARGEST_LENGTH} at most."
        )
    return HEADER.pack(length, kind, request) + body
