"""The manifest's JSON schema, generated from the model and committed beside it.

`python -m sfmobile.bundle.schema` rewrites the committed file; a test holds it current.
"""

from __future__ import annotations

import json
from pathlib import Path

from sfmobile.bundle.manifest import Manifest
from sfmobile.files import write_text

SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")


def manifest_schema() -> str:
    """JSON Schema (draft 2020-12) of `manifest.json`, as the text of the committed file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    write_text(SCHEMA_PATH, manifest_schema())
