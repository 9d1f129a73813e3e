"""Changes of files that keep enough of their structure to come far. Each takes the content and a source of chance."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

import numpy as np

Mutator: TypeAlias = "Callable[[bytes, Random], bytes]"

# Texts that JSON readers take for numbers, or should not; written where a placeholder stands.
RAW_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "1" * 5000, "0x10", "1e-400")
PLACEHOLDER = "\ufdd0"
EDGES = (0, 1, 2, 7, 127, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
STRINGS = (
    "",
    "a",
    "\0",
    "../../etc/passwd",
    "/",
    "a/b",
    "x" * 3000,
    "[bold]x[/y]",
    "\x1b[31m",
    "\udcff",
    "é" * 50,
    "1",
)


def interesting(chance: Random) -> Any:
    """A value that something will not expect."""
    kind = chance.randrange(9)
    if kind == 0:
        return chance.choice((None, True, False))
    if kind in (1, 2):
        return chance.choice((-1, 1)) * chance.choice(EDGES)
    if kind == 3:
        return chance.choice((0.0, -0.0, 1e-300, 1e300, -1.5, 0.1, 3.0))
    if kind in (4, 5):
        return chance.choice(STRINGS)
    if kind == 6:
        return chance.choice(([], {}, [[]], [None], [0] * 100, {"": None}, [-1, 0], ["a"]))
    if kind == 7:
        nested: Any = 0
        for _ in range(chance.choice((5, 200, 3000))):
            nested = [nested] if chance.random() < 0.5 else {"a": nested}
        return nested
    return PLACEHOLDER + chance.choice(RAW_NUMBERS)


def mutate_tree(value: Any, chance: Random) -> Any:
    """A JSON value with one place of it changed."""
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.02:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and chance.random() < 0.3:
            return chance.choice((-value, value + 1, value * 2, value / 3, str(value), [value]))
        return interesting(chance)
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
    key = chance.choice(keys)
    changed: Any = value.copy()
    action = chance.random()
    if action < 0.7:
        changed[key] = mutate_tree(value[key], chance)
    elif action < 0.8:
        del changed[key]
    elif action < 0.9:
        other = chance.choice(keys)
        changed[key], changed[other] = changed[other], changed[key]
    elif isinstance(changed, dict):
        changed[chance.choice((*STRINGS, str(key).upper(), f"{key} "))] = changed[key]
    else:
        changed.insert(key, changed[key])
    return changed


def dump(value: Any) -> bytes:
    """JSON, with numbers that JSON doesn't have where placeholders stand."""
    previous = ""
    text = json.dumps(value, ensure_ascii=False)
    while previous != text:
        previous = text
        start = text.find(f'"{PLACEHOLDER}')
        if start >= 0:
            end = text.index('"', start + 1)
            text = text[:start] + text[start + 2 : end] + text[end + 1 :]
    return text.encode("utf-8", "surrogatepass")


def as_json(content: bytes, chance: Random) -> bytes:
    """One to three places of a JSON file, or its bytes."""
    if chance.random() < 0.12:
        return as_bytes(content, chance)
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        value = mutate_tree(value, chance)
    try:
        return dump(value)
    except RecursionError:
        depth = chance.choice((1000, 100_000))
        return b"[" * depth + b"]" * depth


def as_lines(content: bytes, chance: Random) -> bytes:
    """Lines of JSON, one of them changed, cut, doubled or moved."""
    lines = content.split(b"\n")
    place = chance.randrange(len(lines))
    action = chance.random()
    if action < 0.6 and lines[place].startswith((b"{", b"[")):
        lines[place] = as_json(lines[place], chance)
    elif action < 0.7:
        del lines[place]
    elif action < 0.8:
        lines.insert(place, lines[place])
    else:
        lines[place] = as_bytes(lines[place], chance)
    return b"\n".join(lines)


def as_bytes(content: bytes, chance: Random) -> bytes:
    """Bits turned, bytes cut, doubled, zeroed or put in, numbers written over."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(data) + 1)
        action = chance.randrange(7)
        if action == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            del data[place:]
        elif action == 2:
            del data[place : place + chance.choice((1, 4, 16))]
        elif action == 3:
            data[place:place] = data[place : place + chance.choice((1, 8, 64))]
        elif action == 4:
            length = min(chance.choice((1, 4, 64)), len(data) - place)
            data[place : place + length] = bytes(length)
        elif action == 5:
            data[place:place] = chance.randbytes(chance.choice((1, 3, 30)))
        else:
            layout = chance.choice(("<B", "<H", "<I", "<Q", ">I"))
            number = struct.pack(layout, chance.choice(EDGES) & (256 ** struct.calcsize(layout) - 1))
            data[place : place + len(number)] = number
    return bytes(data)


def as_safetensors(content: bytes, chance: Random) -> bytes:
    """The header as JSON, with its length right or wrong, or the bytes."""
    if chance.random() < 0.2 or len(content) < 8:
        return as_bytes(content, chance)
    (length,) = struct.unpack_from("<Q", content)
    header = as_json(content[8 : 8 + length], chance)
    claimed = len(header) if chance.random() < 0.9 else chance.choice(EDGES) & (2**64 - 1)
    return struct.pack("<Q", claimed) + header + content[8 + length :]


DTYPES = ("<f4", "<f2", "<f8", ">f4", "<i4", "<i8", "|b1", "|u1", "<c8", "|O", "<U4", "|S0", "V5", "<f99", "", None, 3)
SHAPES = ((), (0,), (1,), (-1,), (2**40,), (2**62, 2**62), (2**31, 0), ("a",), (1.5,), None, 4, (True,), (None,), [4])


def as_vector(content: bytes, chance: Random) -> bytes:
    """A .npy file with another header, another version, or other bytes."""
    if chance.random() < 0.25:
        return as_bytes(content, chance)
    array = np.load(io.BytesIO(content))
    header: dict[Any, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    for _ in range(chance.choice((1, 1, 2))):
        action = chance.randrange(6)
        if action == 0:
            header["descr"] = chance.choice(DTYPES)
        elif action == 1:
            header["shape"] = chance.choice((*SHAPES, array.shape[::-1], (*array.shape, 1), array.shape[1:]))
        elif action == 2:
            header["fortran_order"] = chance.choice((True, 1, None, "x"))
        elif action == 3:
            header.pop(chance.choice(list(header)), None)
        elif action == 4:
            header[chance.choice(STRINGS)] = interesting(chance)
        else:
            array = array.astype(chance.choice((np.int64, np.float16, np.bool_, np.float32)))
            header["descr"] = array.dtype.str
    try:
        text = repr(header).encode("utf-8", "surrogatepass")
    except RecursionError:
        text = b"[" * 3000
    if chance.random() < 0.05:
        text = b"(" * chance.choice((100, 9000)) + text
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    body = array.tobytes()
    body = body[: chance.randrange(len(body) + 1)] if chance.random() < 0.2 else body
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) & 0xFFFF) + text + body


def as_message(kind: Callable[[], Any]) -> Mutator:
    """A protobuf message with fields of some submessage changed, repeated, moved or gone, or other bytes."""

    def mutate(content: bytes, chance: Random) -> bytes:
        if chance.random() < 0.08:
            return as_bytes(content, chance)
        message = kind()
        message.ParseFromString(content)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _mutate_message(_inner(message, chance), chance)
        changed: bytes = message.SerializeToString()
        return changed

    return mutate


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _inner(message: Any, chance: Random) -> Any:
    """Some submessage, by a walk that tends to go on."""
    while chance.random() < 0.9:
        below = []
        for field, value in message.ListFields():
            if _is_map(field):
                if field.message_type.fields_by_name["value"].message_type is not None and len(value):
                    below.append(value[chance.choice(sorted(value))])
            elif field.message_type is not None:
                if field.is_repeated:
                    below.append(value[chance.randrange(len(value))])
                else:
                    below.append(value)
        if not below:
            return message
        message = chance.choice(below)
    return message


def _mutate_message(message: Any, chance: Random) -> None:
    set_fields = [field for field, _ in message.ListFields()]
    every = list(message.DESCRIPTOR.fields)
    if not every:
        return
    field = chance.choice(set_fields) if set_fields and chance.random() < 0.85 else chance.choice(every)
    value = getattr(message, field.name)
    if chance.random() < 0.15:
        message.ClearField(field.name)
    elif _is_map(field):
        if len(value):
            key = chance.choice(sorted(value))
            if field.message_type.fields_by_name["value"].message_type is None:
                value[key] = _scalar(field.message_type.fields_by_name["value"], chance)
            elif chance.random() < 0.5:
                del value[key]
            else:
                other = key if isinstance(key, int) else f"{key}x"
                value[other].CopyFrom(value[key])
    elif field.is_repeated:
        _mutate_repeated(value, field, chance)
    elif field.message_type is not None:
        value.SetInParent()
    else:
        _set(message, field, chance)


def _mutate_repeated(value: Any, field: Any, chance: Random) -> None:
    if len(value) and chance.random() < 0.6:
        place, other = chance.randrange(len(value)), chance.randrange(len(value))
        action = chance.randrange(3)
        if action == 0:
            del value[place]
        elif action == 1 and field.message_type is not None:
            value.add().CopyFrom(value[place])
        elif field.message_type is not None:
            copy = type(value[place])()
            copy.CopyFrom(value[place])
            value[place].CopyFrom(value[other])
            value[other].CopyFrom(copy)
        else:
            value[place] = value[other]
    elif field.message_type is not None:
        value.add()
    else:
        value.append(_scalar(field, chance))


def _set(message: Any, field: Any, chance: Random) -> None:
    try:
        setattr(message, field.name, _scalar(field, chance))
    except (ValueError, TypeError):
        message.ClearField(field.name)


def _scalar(field: Any, chance: Random) -> Any:
    """A value of a field's own kind."""
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return chance.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.cpp_type == field.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 4, 64)))
        return chance.choice([text for text in STRINGS if text.isprintable() or not text])
    if field.cpp_type == field.CPPTYPE_ENUM:
        return chance.choice([item.number for item in field.enum_type.values])
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
    number = chance.choice(EDGES) & (2 ** (bits - signed) - 1)
    return -number if signed and chance.random() < 0.3 else number


def as_tar(content: bytes, chance: Random) -> bytes:
    """Members with other names, kinds and sizes, or other bytes of the packed or the unpacked stream."""
    if chance.random() < 0.4:
        return as_bytes(content, chance)
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        members = [(entry, source.extractfile(entry)) for entry in source]
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=chance.choice(("w", "w:gz", "w:xz"))) as target:
            for entry, file in members:
                data = b"" if file is None else file.read()
                action = chance.randrange(6)
                if action == 0:
                    entry.name = chance.choice(("../x", "/x", "a" * 300, "", entry.name.upper()))
                elif action == 1:
                    entry.type = chance.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
                elif action == 2:
                    data += bytes(chance.choice((1, 1 << 16, 1 << 20)))
                elif action == 3:
                    data = as_bytes(data, chance)
                entry.size = len(data) if entry.isreg() else 0
                target.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def as_zip(content: bytes, chance: Random) -> bytes:
    """Members with other names and contents, or other bytes of the archive."""
    if chance.random() < 0.5:
        return as_bytes(content, chance)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            data = source.read(name)
            action = chance.randrange(5)
            if action == 0:
                name = chance.choice(("../x", "/x", "a" * 300, name.upper()))
            elif action == 1:
                data += bytes(chance.choice((1, 1 << 16, 1 << 22)))
            elif action == 2:
                data = as_bytes(data, chance)
            target.writestr(name, data)
    return stream.getvalue()
