"""Checksums of files and of values, and the one file of a bundle that is compared by what it says.

coremltools writes a package's Manifest.json anew whenever it opens and closes the package: the same content, keys
sorted. Packages are written in that form to begin with (`listing_text`), and where such a file has changed, what counts
is whether another spelling of what it says is the one that was recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from sfmobile.bundle.manifest import FileRecord
from sfmobile.errors import ArtifactError
from sfmobile.files import read_json, sha256_of_file

# A package's own listing of its files.
LISTING_FILE = "Manifest.json"
PACKAGE_SUFFIX = ".mlpackage"


def digest_file(path: Path, advance: Callable[[int], None] | None = None) -> FileRecord:
    """Size and SHA-256 of one file; `advance` is told the bytes of each piece read."""
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of_file(path, advance))


def digest_tree(root: Path, folder: str, known: Mapping[str, FileRecord] | None = None) -> dict[str, FileRecord]:
    """Digest of every file below `root`/`folder`, keyed by its POSIX path relative to `root`, in sorted order.

    known: digests that needn't be made, by the same keys.
    """
    files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in files}
    return {name: (known or {}).get(name) or digest_file(path) for name, path in names.items()}


def digest_package(root: Path, package: str, written: Mapping[str, FileRecord] | None = None) -> dict[str, FileRecord]:
    """Digest of the package `root`/`package`: a directory's files, or a file and its companions (`package`.*).

    written: records of files, by their path in the package, whose checksum was made as they were written.
    """
    if (root / package).is_dir():
        return digest_tree(root, package, {f"{package}/{path}": record for path, record in (written or {}).items()})
    files = sorted(path for path in root.iterdir() if path.name == package or path.name.startswith(f"{package}."))
    return {path.name: digest_file(path) for path in files}


def listing_text(listing: Mapping[str, Any]) -> str:
    """The content of a package's Manifest.json in the form in which coremltools 9.0 leaves it on every system."""
    return json.dumps(listing, indent=4, sort_keys=True, ensure_ascii=False) + "\n"


def is_listing(relative: str) -> bool:
    """Whether a file of a bundle is the Manifest.json of one of its packages."""
    path = PurePosixPath(relative)
    return path.name == LISTING_FILE and path.parent.suffix == PACKAGE_SUFFIX


def listing_records(path: Path) -> Iterator[FileRecord]:
    """What can have been recorded of a package's Manifest.json that says what the one at `path` says; none if broken.

    Up to version 0.1.0 the file was written with the model's entry in front of the others.
    """
    try:
        text = listing_text(read_json(path, "the Manifest.json of a package", "export it again"))
    except ArtifactError:
        return
    yield _record(text)
    listing = json.loads(text)
    with suppress(LookupError, TypeError):
        entries, model = listing["itemInfoEntries"], listing["rootModelIdentifier"]
        yield _record(json.dumps({**listing, "itemInfoEntries": {model: entries[model], **entries}}, indent=4) + "\n")


def _record(text: str) -> FileRecord:
    content = text.encode("utf-8", "surrogatepass")
    return FileRecord(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
