"""A bundle with one fault, and checksums that fit it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.digest import digest_file, digest_package
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import ComponentName


@dataclass(frozen=True)
class Mutant:
    """One fault: where, of what kind, and what was done, for people. `apply` puts it into a copy of the bundle."""

    component: ComponentName | None
    kind: str
    detail: str
    apply: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.component or 'bundle'}: {self.kind}: {self.detail}"


def write_mutant(bundle: Bundle, mutant: Mutant, root: Path) -> Bundle:
    """The mutant as a bundle of its own at `root` (which doesn't exist yet), its checksums as an exporter's.

    What the fault isn't in is linked, not copied.
    """
    package = None if mutant.component is None else bundle.package(mutant.component)
    shutil.copytree(bundle.root, root, copy_function=os.link, ignore=shutil.ignore_patterns("*.html"))
    for path in (package, bundle.root / MANIFEST_FILE, bundle.tokenizer_dir):
        if path is None:
            continue
        own = root / path.relative_to(bundle.root)
        if path.is_dir():
            shutil.rmtree(own)
            shutil.copytree(path, own)
        else:
            own.unlink()
            shutil.copy2(path, own)
    mutant.apply(root)
    _record(root, mutant.component)
    return Bundle.open(root, check="sizes")


def _record(root: Path, changed: ComponentName | None) -> None:
    """Take the checksums of what may have changed into the manifest."""
    path = root / MANIFEST_FILE
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, component in manifest["components"].items():
        if name != changed:
            continue
        files = digest_package(root, component["package"])
        component["files"] = {name: file.model_dump() for name, file in files.items()}
        component["bytes"] = sum(file.bytes for file in files.values())
    for tokenizer in manifest["tokenizers"].values():
        for name in tokenizer["files"]:
            tokenizer["files"][name] = digest_file(root / name).model_dump()
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
