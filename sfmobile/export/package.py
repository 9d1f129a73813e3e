"""Writing a MIL program as an .mlpackage: weights streamed to the package once, metadata in the model file."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.export import coremltools_names as names
from sfmobile.export.quiet import quiet
from sfmobile.mlpackage.package import COREML_FOLDER, MODEL_FILE, WEIGHTS_FOLDER, write_package_manifest

if TYPE_CHECKING:
    from sfmobile.bundle.choices import Target
    from sfmobile.export.coremltools_names import Program

# With less than this left, a failed write is taken for a full disk.
LEAST_FREE_BYTES = 64 << 20


@dataclass(frozen=True)
class PackageMetadata:
    """What a package says of itself; `user` are user-defined keys."""

    description: str
    author: str = ""
    licence: str = ""
    version: str = ""
    user: Mapping[str, str] = field(default_factory=dict)


def write_package(
    program: Program,
    path: Path,
    target: Target,
    metadata: PackageMetadata,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
) -> None:
    """Write `program` as the package `path` (a directory that doesn't exist yet).

    coremltools serialises weights straight into the package; its own package writer would copy them. The same program
    gives the same bytes.
    """
    from sfmobile.export.lowering import coreml_target

    folder = path / "Data" / COREML_FOLDER
    (folder / WEIGHTS_FOLDER).mkdir(parents=True)
    with quiet():
        try:
            model = names.SERIALIZE.load()(
                program,
                weights_dir=str(folder / WEIGHTS_FOLDER),
                specification_version=coreml_target(target).value,
                convert_to="mlprogram",
                convert_from="pytorch",
            )
        except RuntimeError as error:
            # The weight writer is C++ and reports a full disk as "[MIL FileWriter]: Unknown error".
            if "FileWriter" not in str(error):
                raise
            full = shutil.disk_usage(folder).free < LEAST_FREE_BYTES
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error
    description = model.description
    described = {record.name: record.description for record in (*inputs, *outputs)}
    for feature in (*description.input, *description.output):
        feature.shortDescription = described[feature.name]
    description.metadata.shortDescription = metadata.description
    description.metadata.author = metadata.author
    description.metadata.license = metadata.licence
    description.metadata.versionString = metadata.version
    for key, value in metadata.user.items():
        description.metadata.userDefined[key] = value
    (folder / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    write_package_manifest(path)
