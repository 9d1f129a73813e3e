"""What a package says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfmobile.bundle.manifest import TensorRecord


@dataclass(frozen=True)
class PackageMetadata:
    """What a package says of itself; `user` are user-defined keys."""

    description: str
    author: str = ""
    licence: str = ""
    version: str = ""
    user: Mapping[str, str] = field(default_factory=dict)


def describe(
    model: Any, metadata: PackageMetadata, inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord]
) -> None:
    """Write what a package says of itself, and of its inputs and outputs, into its model."""
    description = model.description
    said = {record.name: record.description for record in (*inputs, *outputs)}
    for feature in (*description.input, *description.output):
        feature.shortDescription = said[feature.name]
    description.metadata.shortDescription = metadata.description
    description.metadata.author = metadata.author
    description.metadata.license = metadata.licence
    description.metadata.versionString = metadata.version
    for key, value in metadata.user.items():
        description.metadata.userDefined[key] = value
