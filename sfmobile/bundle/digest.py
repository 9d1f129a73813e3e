"""Sizes and checksums of the files of a bundle, as the manifest records them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfmobile.bundle.manifest import FileRecord
from sfmobile.files import sha256_of_file


def digest_file(path: Path, advance: Callable[[int], None] | None = None) -> FileRecord:
    """Size and SHA-256 of one file; `advance` is told the bytes of each piece read."""
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of_file(path, advance))


def digest_tree(root: Path, folder: str) -> dict[str, FileRecord]:
    """Digest of every file below `root`/`folder`, keyed by its POSIX path relative to `root`, in sorted order."""
    files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): digest_file(path) for path in files}


def digest_package(root: Path, package: str) -> dict[str, FileRecord]:
    """Digest of the package `root`/`package`: a directory's files, or a file and its companions (`package`.*)."""
    if (root / package).is_dir():
        return digest_tree(root, package)
    files = sorted(path for path in root.iterdir() if path.name == package or path.name.startswith(f"{package}."))
    return {path.name: digest_file(path) for path in files}
