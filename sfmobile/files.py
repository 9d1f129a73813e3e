"""Files, written once for the whole house: whole or not at all, checked by their bytes, read with clear errors.

Nothing here knows a bundle, a report or a checkpoint. A sentence about a file names it, says what was expected and
what was found, and gives the mend of the caller, who alone knows what made the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError, UsageError

if sys.platform != "win32":
    import fcntl

CACHE_VARIABLE = "SFMOBILE_CACHE"
PIECE_BYTES = 8 << 20
# The largest JSON file that is read; a full recipe or a sprite index stays below a tenth of it.
JSON_BYTES = 256 << 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

Value = TypeVar("Value")
Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every record that is read from a file: an unknown key is an error, a value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- checksums ---


def sha256_of_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces; `advance` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()


def sha256_of_value(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON-like value in canonical form (sorted keys, no spaces).

    Raises `ValueError` for NaN and infinities, which JSON doesn't have.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- the cache folder ---


def cache_folder(kind: str = "") -> Path:
    """Where what can be made or fetched again is kept: `$SFMOBILE_CACHE`, else `sfmobile` in the user's cache folder.

    kind: the part of it, such as "blocks"; the folder may not exist yet.
    """
    given = os.environ.get(CACHE_VARIABLE)
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfmobile"
    return root / kind


# --- writing ---


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write the yielded draft instead of `path`; it takes the place of `path` when the block ends without an error.

    The draft stands in the same folder under a name that can't be guessed and is created anew, so that no link is
    followed; a link at `path` itself is replaced, not followed. Drafts that a killed writer left are removed.

    durable: on the disk before this returns, even if the power fails then.

    Raises `UnavailableError` if the disk is full, `UsageError` if `path` can't be written; nothing is left behind.
    """
    if path.is_dir() and not path.is_symlink():
        raise UsageError(f"'{path}' is a directory, so no file can be written there; choose another name.")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    descriptor: int | None = None
    try:
        with _writing(path):
            _sweep(path)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _writing(path, draft):
            yield draft
            if durable:
                _synchronise(draft)
            draft.replace(path)
            if durable:
                _synchronise(path.parent)
    finally:
        if descriptor is not None:
            draft.unlink(missing_ok=True)
            os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file whole or not at all. Raises as `atomic_write` does."""
    with atomic_write(path, durable=durable) as draft:
        draft.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = False) -> None:
    """Write a text file (UTF-8) whole or not at all. Raises as `atomic_write` does."""
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, value: Any, *, indent: int = 2, durable: bool = False) -> None:
    """Write a JSON-like value or a record as indented JSON with a final newline, whole or not at all.

    Raises as `atomic_write` does, and `ValueError` for NaN and infinities, which JSON doesn't have.
    """
    if isinstance(value, BaseModel):
        text = value.model_dump_json(indent=indent)
    else:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", durable=durable)


@contextmanager
def _writing(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Turn a failed write of `path` into a sentence; in the block of a `draft` only what is about the draft."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UnavailableError(
                f"The disk is full, so '{path}' was not written; free some space and run the same command again."
            ) from error
        if draft is not None and error.filename not in (str(draft), draft, None):
            raise
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"'{path}' can't be written ({reason}); choose another place.") from error


def _sweep(path: Path) -> None:
    """Remove the drafts of `path` whose writer is gone: nobody holds their lock. Windows has no such locks."""
    if sys.platform == "win32":
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.partial")
    for draft in path.parent.iterdir():
        if not ours.fullmatch(draft.name):
            continue
        with suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()
            finally:
                os.close(descriptor)


def _synchronise(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading ---


def read_json(path: Path, what: str, mend: str, *, error: type[SfmobileError] = ArtifactError) -> Any:
    """The JSON value in `path`.

    what: such as "a bench report"; mend: what helps if the file isn't that. Raises `error` for a file that is missing,
    not a regular file, too large, not UTF-8, not JSON (NaN and infinities are not), or nested too deeply.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            found = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise error(f"'{path}' is {found}: expected {what}; {mend}.")
        if status.st_size > JSON_BYTES:
            raise error(f"'{path}' has {status.st_size} bytes: expected {what} of at most {JSON_BYTES}; {mend}.")
        return parse_json(path.read_bytes(), f"'{path}'", what, mend, error=error)
    except FileNotFoundError:
        raise error(f"'{path}' doesn't exist: expected {what}; {mend}.") from None
    except OSError as failed:
        raise error(
            f"'{path}' can't be read ({(failed.strerror or str(failed)).lower()}): expected {what}."
        ) from failed


def parse_json(
    content: bytes | str, where: str, what: str, mend: str, *, error: type[SfmobileError] = ArtifactError
) -> Any:
    """The JSON value of a text that came from `where`; raises `error` as `read_json` does."""
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except json.JSONDecodeError as failed:
        raise error(f"{where} is not JSON (line {failed.lineno}: {failed.msg}): expected {what}; {mend}.") from failed
    except UnicodeDecodeError as failed:
        raise error(f"{where} is not UTF-8 text (byte {failed.start}): expected {what}; {mend}.") from failed
    except RecursionError as failed:
        raise error(f"{where} is nested too deeply: expected {what}; {mend}.") from failed
    except ValueError as failed:
        # Numbers of thousands of digits, NaN, infinities.
        raise error(f"{where} is not JSON ({str(failed).rstrip('.')}): expected {what}; {mend}.") from failed


def read_model(
    path: Path, kind: type[Model], what: str, mend: str, *, error: type[SfmobileError] = ArtifactError
) -> Model:
    """The record in the JSON file `path`. Raises `error` as `read_json` does, and for what doesn't fit `kind`."""
    return validated(kind, read_json(path, what, mend, error=error), f"'{path}'", what, mend, error=error)


def validated(
    kind: type[Value], value: Any, where: str, what: str, mend: str, *, error: type[SfmobileError] = ArtifactError
) -> Value:
    """A parsed JSON value as a record or any type that pydantic validates.

    Raises `error`, naming `where` it came from, the first place that doesn't fit and what was found there.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as failed:
        place, found = first_fault(failed)
        raise error(f"{where} is not {what} at {place or 'its top'}: {found}; {mend}.") from failed
    except RecursionError as failed:
        raise error(f"{where} is nested too deeply: expected {what}; {mend}.") from failed


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Place ("a.0.b") and complaint of the first thing that didn't fit, as a person would write it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return place, first["msg"].removeprefix("Value error, ").rstrip(".")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
