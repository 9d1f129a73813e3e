"""The pinned registry packages that captions and sprites come from: fetched, verified, read without extraction.

The pins are `packages.json`: name, version, the registry's sha512 integrity, licence, the members that are
needed (a pattern below `package/`) and a sha256 over exactly those members, so that a repacked archive
(`pack.py`) is proven equal to the registry's tarballs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.files import read_json
from sfmobile.train.archives import Archive, fetch, read_members

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
    def archive(self) -> Archive:
        """The tarball as the registry has it."""
        return Archive("npm", self.name, self.version, self.tarball, self.integrity)


Members = Mapping[str, bytes]


def pinned_packages() -> tuple[Package, ...]:
    """All pins, captions first."""
    pins = read_json(PINS, "the pinned packages", "install sfmobile again")
    return tuple(Package(**entry) for entry in pins["packages"])


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
    for package in packages or pinned_packages():
        if not package.archive.is_at(directory / package.tarball):
            report(f"fetching {package.archive}")
            fetch(package.archive, directory, f"name a directory that holds {package.tarball} with --packages")
    return directory


def read_tarball(path: Path, package: Package) -> dict[str, bytes]:
    """Needed members of a tarball, keyed by their path below `package/`, once it is proven to be the pinned one."""
    package.archive.check(path, "fetch it with `sfmobile train data`")
    wanted = re.compile(package.members)
    members = read_members(path, str(package.archive), wanted, "package/", most=MEMBER_BYTES_LIMIT)
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
    wanted = re.compile(r"^[^/]+/.+")
    everything = read_members(where, "a packed archive of sources", wanted, most=MEMBER_BYTES_LIMIT)
    sources: dict[str, dict[str, bytes]] = {}
    for package in pins:
        prefix = f"{package.role}/"
        members = {name.removeprefix(prefix): data for name, data in everything.items() if name.startswith(prefix)}
        _check_members(where, package, members)
        sources[package.role] = members
    return sources


def _check_members(path: Path, package: Package, members: Members) -> None:
    found = members_digest(members)
    if package.members_sha256 != found:
        raise ArtifactError(
            f"{path} does not hold the members of {package.archive}: expected sha256 "
            f"{package.members_sha256[:16]}…, found {found[:16]}… over {len(members)} members; fetch or pack it again"
        )
