"""Files, written once for the whole house: whole or not at all, checked by their bytes, read with clear errors.

Nothing here knows a bundle, a report or a checkpoint. A sentence about a file names it, says what was expected and
what was found, and gives the mend of the caller, who alone knows what made the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError, UsageError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CACHE_VARIABLE = "SFMOBILE_CACHE"
PIECE_BYTES = 8 << 20
# The largest file that is read whole; a full recipe, a vocabulary or a sprite index stays below a tenth of it.
MOST_BYTES = 256 << 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# File systems that can't put a folder on the disk by itself, and folders that may be written but not read.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
# Systems and file systems that can't let two entries change places.
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
# Of renameat2 (Linux, fcntl.h and fs.h) and renamex_np (macOS, stdio.h), which Python doesn't offer.
AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP = -100, 2, 2
# Of a value or a name that a file holds, in a sentence.
SHOWN_CHARACTERS = 60
COMPLAINT_CHARACTERS = 500

Value = TypeVar("Value")
# An error's class, or anything that makes an error out of a sentence.
Refusal: TypeAlias = Callable[[str], SfmobileError]


class StrictModel(BaseModel):
    """Base of every record that is read from a file: an unknown key is an error, a value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- checksums ---


def sha256_of_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces; `advance` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
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
    A device or a pipe is refused: it would be replaced by a file.

    durable: on the disk before this returns, even if the power fails then.

    Raises `UnavailableError` if the disk is full, `UsageError` if `path` can't be written; nothing is left behind.
    """
    draft: Path | None = None
    try:
        with replacing(path, durable=durable) as draft:
            yield draft
    except OSError as error:
        # What the block did with other files is the caller's to explain.
        if draft is not None and error.filename not in (str(draft), draft, None) and error.errno not in DISK_FULL:
            raise
        raise _unwritten(path, error) from error


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """As `atomic_write`, with the system's `OSError`s: for who writes many files and has one sentence for them all."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, f"it is {_kind_of(mode)}", str(path))
    draft, lock = _claim(path, folder=False)
    try:
        yield draft
        if durable:
            _synchronise(draft)
        draft.replace(path)
        if durable:
            try:
                _synchronise(path.parent)
            except OSError as error:
                if error.errno not in NO_FOLDER_SYNC:
                    raise
    finally:
        draft.unlink(missing_ok=True)
        _release(lock)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, for what is renamed to `path` when it is whole; what is still in it at the end goes.

    Named and swept as the drafts of `atomic_write` are. Raises `OSError`.
    """
    draft, lock = _claim(path, folder=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        _release(lock)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they don't exist. Raises as `atomic_write` does."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def require_writable(*paths: Path | None) -> None:
    """Raise as `atomic_write` would of each of `paths`, before the work whose result is to go there; None is no path.

    What is made to find out is gone again. A folder that isn't there yet counts by the one that it would be made in.
    """
    for path in paths:
        if path is None:
            continue
        folder = path.absolute().parent
        try:
            if path.exists() and not path.is_file():
                raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, f"it is {_kind_of(path.stat().st_mode)}")
            while not folder.exists():
                folder = folder.parent
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unwritten(path, error) from error


def exchange(one: Path, other: Path) -> bool:
    """Let two entries of one folder change places in a single step, so that neither name is ever without a file.

    False, and nothing done, where the system (not Linux 3.15 or macOS) or the file system can't. Raises `OSError`.
    """
    import ctypes

    if sys.platform not in ("linux", "darwin"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        done = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], ctypes.c_uint(RENAME_EXCHANGE))
    elif hasattr(library, "renamex_np"):
        done = library.renamex_np(*names, ctypes.c_uint(RENAME_SWAP))
    else:
        return False
    code = ctypes.get_errno()
    if done and code not in NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(other))
    return not done


def copy_inside(source: Path, target: Path, root: Path, mend: str) -> None:
    """Copy a regular file that came with the folder `root`: a link in what was received must not carry others away.

    Links into the folder are followed, and those of the Hub's cache, whose snapshots are links into `blobs` beside
    them. Raises `ArtifactError` for another link and for what is no regular file, and as `atomic_write` does.
    """
    found, base = source.resolve(), root.resolve()
    blobs = base.parent.parent / "blobs"
    hub = base.parent.name == "snapshots" and found.is_relative_to(blobs)
    if not hub and not found.is_relative_to(base):
        raise ArtifactError(f"'{source}' is a link that leaves '{root}', to '{found}'; {mend}.")
    write_bytes(target, read_bytes(source, "a file to copy", mend))


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file whole or not at all. Raises as `atomic_write` does."""
    with atomic_write(path, durable=durable) as draft:
        draft.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = False) -> None:
    """Write a text file (UTF-8) whole or not at all. Raises as `atomic_write` does."""
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, value: Any, *, indent: int = 2, durable: bool = False) -> None:
    """Write a JSON-like value or a record as `json_text`, whole or not at all. Raises as both do."""
    write_text(path, json_text(value, indent=indent), durable=durable)


def json_text(value: Any, *, indent: int = 2) -> str:
    """A JSON-like value or a record as indented JSON with a final newline.

    Raises `ValueError` for NaN and infinities, which JSON doesn't have; those of a record become null.
    """
    if isinstance(value, BaseModel):
        return value.model_dump_json(indent=indent) + "\n"
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Write a matplotlib figure whole or not at all, in the format of the suffix of `path`, PNG where it has none.

    options: of `Figure.savefig`. Raises as `atomic_write` does, and `UsageError` for a format that isn't known.
    """
    known = figure.canvas.get_supported_filetypes()
    form = path.suffix.removeprefix(".").lower() or "png"
    if form not in known:
        raise UsageError(f"'{path}' can't be drawn as '{form}'; expected a name that ends in .png, .svg or .pdf.")
    with atomic_write(path) as draft:
        figure.savefig(draft, format=form, **options)


def _unwritten(path: Path, error: OSError) -> SfmobileError:
    if error.errno in DISK_FULL:
        return UnavailableError(
            f"The disk is full, so '{path}' was not written; free some space and run the same command again."
        )
    return UsageError(f"'{path}' can't be written ({_reason(error)}); choose another place.")


def _claim(path: Path, *, folder: bool) -> tuple[Path, int | None]:
    """A new draft of `path`, and the open file whose lock says that its maker lives (None where there is no lock)."""
    _sweep(path)
    while True:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
        if folder:
            draft.mkdir()
        else:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        if sys.platform == "win32":
            return draft, None
        try:
            lock = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
        except PermissionError:
            # A umask that leaves nothing to read: who sweeps can't open it either.
            return draft, None
        except FileNotFoundError:
            continue
        # A file system without locks refuses who sweeps as well.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another writer of `path` may have swept the draft away before it was locked.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), draft.stat()):
                return draft, lock
        os.close(lock)


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _sweep(path: Path) -> None:
    """Remove the drafts of `path` whose maker is gone: nobody holds their lock. Windows has no such locks."""
    if sys.platform == "win32":
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.partial")
    try:
        drafts = [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]
    except OSError:
        # Whether a file can be written there, writing it will tell.
        return
    for draft in drafts:
        with suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if draft.is_dir():
                    shutil.rmtree(draft, ignore_errors=True)
                else:
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


def read_bytes(path: Path, what: str, mend: str, *, error: Refusal = ArtifactError) -> bytes:
    """The bytes of `path`.

    what: such as "a bench report"; mend: what helps if the file isn't that. Raises `error` for a file that is missing,
    not a regular file (a pipe isn't waited for) or of more than `MOST_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise error(f"'{path}' is {_kind_of(status.st_mode)}: expected {what}; {mend}.")
        if status.st_size > MOST_BYTES:
            raise error(f"'{path}' has {status.st_size} bytes: expected {what} of at most {MOST_BYTES}; {mend}.")
        return path.read_bytes()
    except FileNotFoundError:
        raise error(f"'{path}' doesn't exist: expected {what}; {mend}.") from None
    except OSError as failed:
        raise error(f"'{path}' can't be read ({_reason(failed)}): expected {what}.") from failed


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading without ever waiting for the other end of a pipe. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {_kind_of(mode)}", str(path))
    return os.fdopen(descriptor, "rb", buffering=0)


def read_text(path: Path, what: str, mend: str, *, error: Refusal = ArtifactError) -> str:
    """The UTF-8 text in `path`, lines ended by newlines; raises `error` as `read_bytes` does, and for another text."""
    text = _decoded(read_bytes(path, what, mend, error=error), f"'{path}'", what, mend, error)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, what: str, mend: str, *, error: Refusal = ArtifactError) -> Any:
    """The JSON value in `path`; raises `error` as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, what, mend, error=error), f"'{path}'", what, mend, error=error)


def parse_json(content: bytes | str, where: str, what: str, mend: str, *, error: Refusal = ArtifactError) -> Any:
    """The JSON value of a text that came from `where`.

    Raises `error` for what isn't UTF-8, not JSON (NaN and infinities are not, nor numbers beyond a float or of
    thousands of digits), or nested too deeply.
    """
    text = _decoded(content, where, what, mend, error) if isinstance(content, bytes) else content
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as failed:
        raise error(f"{where} is not JSON (line {failed.lineno}: {failed.msg}): expected {what}; {mend}.") from failed
    except RecursionError as failed:
        raise error(f"{where} is nested too deeply: expected {what}; {mend}.") from failed
    except ValueError as failed:
        raise error(f"{where} is not JSON ({str(failed).rstrip('.')}): expected {what}; {mend}.") from failed


def read_model(
    path: Path, kind: type[Value], what: str, mend: str, *, version: int | None = None, error: Refusal = ArtifactError
) -> Value:
    """The JSON file `path` as a record, or as any type that pydantic validates.

    version: the latest that is known of a record that has one. Raises `error` as `read_json`, `check_version` and
    `validated` do.
    """
    value = read_json(path, what, mend, error=error)
    if version is not None:
        check_version(value, "version", version, f"'{path}'", error=error)
    return validated(kind, value, f"'{path}'", what, mend, error=error)


def check_version(value: Any, key: str, known: int, where: str, *, error: Refusal = ArtifactError) -> None:
    """Raise `error` if a parsed record says under `key` that it is of a later version than `known`."""
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, int) and found > known:
        raise error(f"{where} has {key} {_shown(found)} but this sfmobile reads {known}; upgrade sfmobile.")


def validated(
    kind: type[Value], value: Any, where: str, what: str, mend: str, *, error: Refusal = ArtifactError
) -> Value:
    """A parsed JSON value as a record or any type that pydantic validates.

    Raises `error`, naming `where` it came from, the first place that doesn't fit, what belongs there and what was
    found.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as failed:
        place, found = first_fault(failed)
        raise error(f"{where} is not {what} at {place or 'its top'}: {found}; {mend}.") from failed
    except RecursionError as failed:
        raise error(f"{where} is nested too deeply: expected {what}; {mend}.") from failed


# Where pydantic speaks of Python, and a file holds JSON.
_COMPLAINTS = {
    "missing": "it is missing",
    "extra_forbidden": "nothing of that name belongs there",
    **dict.fromkeys(("model_type", "dataclass_type", "dict_type", "mapping_type"), "it should be an object"),
    **dict.fromkeys(("list_type", "tuple_type"), "it should be a list"),
}
# These say themselves what was found, or there is nothing to show.
_COMPLETE = ("missing", "extra_forbidden", "value_error", "assertion_error")


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Place ("a.0.b") and complaint of the first thing that didn't fit, with what was found, as a person writes it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) if isinstance(part, int) else _printable(part) for part in first["loc"])
    complaint = _COMPLAINTS.get(first["type"]) or _printable(first["msg"].removeprefix("Value error, "), 500).rstrip(
        "."
    )
    return place, complaint if first["type"] in _COMPLETE else f"{complaint}, found {_shown(first['input'])}"


def _decoded(content: bytes, where: str, what: str, mend: str, error: Refusal) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as failed:
        raise error(f"{where} is not UTF-8 text (byte {failed.start}): expected {what}; {mend}.") from failed


def _shown(value: Any) -> str:
    """A JSON value in a sentence: what it is if it is large, else itself."""
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "a list"
    shown = reprlib.Repr()
    shown.maxstring = shown.maxlong = SHOWN_CHARACTERS
    return shown.repr(value)


def _printable(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """A text out of a file, cut and without what would break a line."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= most else f"{plain[:most]}…"


def _kind_of(mode: int) -> str:
    return "a directory" if stat.S_ISDIR(mode) else "no regular file"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]} is beyond the range of numbers")
    return number
