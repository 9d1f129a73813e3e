"""Applies a case of `broken.json` to a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def _edit_manifest(root: Path, case: dict[str, Any]) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in case["pointer"].split("/")[1:]]
    place = manifest
    for part in parents:
        place = place[part]
    if case["op"] == "set":
        place[last] = case["value"]
    else:
        value = place.pop(last)
        if case["op"] == "rename_key":
            place[case["key"]] = value
    path.write_text(json.dumps(manifest))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def mutate(root: Path, case: dict[str, Any]) -> None:
    """Damage the bundle at `root` as `case` says."""
    if "pointer" in case:
        _edit_manifest(root, case)
        return
    path = root / case["path"]
    match case["op"]:
        case "delete":
            _remove(path)
        case "truncate":
            path.write_bytes(path.read_bytes()[: case["bytes"]])
        case "append":
            path.write_bytes(path.read_bytes() + case["text"].encode())
        case "flip":
            content = bytearray(path.read_bytes())
            content[case["offset"]] ^= 0xFF
            path.write_bytes(content)
        case "write":
            path.write_text(case["text"])
        case "link":
            _remove(path)
            path.symlink_to(case["target"])
        case unknown:
            raise ValueError(f"unknown op {unknown}")
