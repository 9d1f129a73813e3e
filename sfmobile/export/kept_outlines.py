"""Outlines kept in the cache folder: an architecture is traced once, and exported again by filling in weights.

An outline depends on what `outline_key` names and on nothing else: the layout, what is asked for, and the code that
makes it, ours and that of the tools. Another version of any of them is another key, so that nothing is trusted across
versions. A file is its content's checksum and the content: a torn or altered one is drawn anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.errors import SfmobileError
from sfmobile.export.outline import Outline
from sfmobile.files import cache_folder, make_folder, sha256_of_value, write_bytes
from sfmobile.mlpackage import schema
from sfmobile.version import __version__

if TYPE_CHECKING:
    from sfmobile.bundle.choices import AttentionForm, ComponentName, Target

KIND = "outlines"
SUFFIX = ".outline"
# Of all outlines together; a full-size UNet's is 2 to 9 MB. What wasn't used for longest goes first.
MOST_BYTES = 256 << 20
CHECKSUM_BYTES = hashlib.sha256().digest_size
# Rooms whose code an outline comes from.
ROOMS = ("nets", "export", "mlpackage")
TOOLS = ("coremltools", "torch", "numpy")


def outline_key(
    component: ComponentName,
    layout: Any,
    attention: AttentionForm,
    target: Target,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
) -> str:
    """SHA-256 of all that an outline depends on. layout: the dataclass that the network is built from."""
    return sha256_of_value(
        {
            "component": component,
            "layout": [type(layout).__name__, asdict(layout, dict_factory=_unnamed)],
            "attention": attention,
            "target": target,
            "inputs": [(one.name, one.shape, one.dtype) for one in inputs],
            "outputs": [(one.name, one.shape, one.dtype) for one in outputs],
            "tools": _tools(),
            "code": _code(),
        }
    )


def _unnamed(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """A layout is what it builds, whatever a checkpoint calls it."""
    return {key: value for key, value in fields if key != "name"}


def kept_outline(key: str, draw: Callable[[], Outline], anew: bool = False) -> Outline:
    """The outline of `key` from the cache folder, or drawn and kept there; with `anew` drawn in any case.

    A folder that can't be written is no reason to fail: the next export draws the outline again.
    """
    path = cache_folder(KIND) / f"{key}{SUFFIX}"
    found = None if anew else _read(path)
    if found is not None:
        return found
    outline = draw()
    content = outline.model.SerializeToString(deterministic=True)
    with suppress(SfmobileError, OSError):
        make_folder(path.parent)
        write_bytes(path, hashlib.sha256(content).digest() + content)
        _bound(path.parent)
    return outline


def _read(path: Path) -> Outline | None:
    """The outline at `path`, if there is one and it is whole."""
    try:
        stored = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    checksum, content = stored[:CHECKSUM_BYTES], stored[CHECKSUM_BYTES:]
    if hashlib.sha256(content).digest() != checksum:
        return None
    return Outline(schema.model().Model.FromString(content))


def _bound(folder: Path) -> None:
    """Remove what wasn't used for longest until the rest is within `MOST_BYTES`."""
    used = []
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # Another process may remove it at the same time.
            status = path.stat()
            used.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(used, reverse=True):
        total += size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)


@cache
def _tools() -> Mapping[str, str]:
    versions = {"python": sys.version, "sfmobile": __version__}
    return versions | {tool: version(tool) for tool in TOOLS}


@cache
def _code() -> str:
    """SHA-256 of the code that outlines come from: in a working copy it changes without a version."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
