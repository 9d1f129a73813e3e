"""An .mlpackage on disk: its folders and its listing."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

COREML_FOLDER = "com.apple.CoreML"
MODEL_FILE = "model.mlmodel"
WEIGHTS_FOLDER = "weights"
NAMESPACE = uuid.UUID("6d1f3f8e-3b7e-5a0c-9a53-0a6f0c2f9d11")


def write_package_manifest(path: Path) -> None:
    """The package's own Manifest.json, as Core ML's ModelPackage format 1.0.0 has it.

    Identifiers are derived from names, not random, so that equal packages are equal files.
    """
    items = {
        str(uuid.uuid5(NAMESPACE, name)): {
            "author": COREML_FOLDER,
            "description": text,
            "name": name,
            "path": f"{COREML_FOLDER}/{name}",
        }
        for name, text in ((MODEL_FILE, "CoreML Model Specification"), (WEIGHTS_FOLDER, "CoreML Model Weights"))
    }
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": str(uuid.uuid5(NAMESPACE, MODEL_FILE)),
    }
    (path / "Manifest.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
