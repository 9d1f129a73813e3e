"""Checksums of files and of values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sfmobile.bundle.manifest import FileRecord

CHUNK_BYTES = 8 << 20


def digest_file(path: Path, advance: Callable[[int], None] | None = None) -> FileRecord:
    """Size and SHA-256 of one file, read in pieces; `advance` is told the bytes of each piece."""
    digest = hashlib.sha256()
    total = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            total += len(piece)
            if advance is not None:
                advance(len(piece))
    return FileRecord(bytes=total, sha256=digest.hexdigest())


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


def digest_value(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-like value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
