"""One small archive of exactly the package members that the sprite cache is built from.

For machines without a registry: the tarballs' needed members, xz-compressed with a dictionary over all SVGs,
are about half the tarballs' size. `packages.read_sources` reads the archive in place of the tarballs.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path

from sfmobile.files import atomic_write


def pack_sources(sources: Mapping[str, Mapping[str, bytes]], path: Path, preset: int = 6) -> Path:
    """Write `sources` (role -> member -> bytes, of `packages.read_sources`) as a reproducible tar.xz at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A 64 MiB window lets one skin tone's drawing find the other four.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": 64 << 20}]
    with (
        atomic_write(path) as draft,
        lzma.open(draft, "wb", filters=filters) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for role in sorted(sources):
            for name in sorted(sources[role]):
                entry = tarfile.TarInfo(f"{role}/{name}")
                entry.size = len(sources[role][name])
                archive.addfile(entry, io.BytesIO(sources[role][name]))
    return path
