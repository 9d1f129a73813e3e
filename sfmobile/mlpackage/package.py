"""An .mlpackage on disk: opened through its Manifest.json, and put together anew.

    X.mlpackage/
      Manifest.json                       which file is the model, and what else belongs to it
      Data/com.apple.CoreML/model.mlmodel the program, a protobuf
      Data/com.apple.CoreML/weights/      what the program names as "@model_path/weights/weight.bin"

Everything here works on the protobuf that Core ML itself reads, with weights left in their file: what is cut or merged
is exactly what was written and checked.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sfmobile.bundle.digest import LISTING_FILE, listing_text
from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.container import DATA_FOLDER as DATA_FOLDER
from sfmobile.mlpackage.container import Container, no_program, open_container
from sfmobile.mlpackage.weight_file import MODEL_PATH, Blob, WeightWriter

COREML_FOLDER = "com.apple.CoreML"
MODEL_FILE = "model.mlmodel"
WEIGHTS_FOLDER = "weights"
WEIGHT_FILE = "weight.bin"
# Of a new package, from its root.
WEIGHTS_PATH = f"{DATA_FOLDER}/{COREML_FOLDER}/{WEIGHTS_FOLDER}/{WEIGHT_FILE}"
# The function that runs unless another is asked for.
MAIN = "main"
NAMESPACE = uuid.UUID("6d1f3f8e-3b7e-5a0c-9a53-0a6f0c2f9d11")


class Package:
    """An opened ML Program: its model file parsed, its weight files mapped when they are first read."""

    def __init__(self, path: Path | Container) -> None:
        """Open a package, or take what is open already.

        Raises `ArtifactError` if `path` is missing, truncated or altered, or no package of an ML Program.
        """
        opened = path if isinstance(path, Container) else open_container(path)
        if opened.kind != "mlProgram":
            raise no_program(opened.path, opened.kind)
        self.path = opened.path
        self.model = opened.model
        self.weights = opened.weights

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions."""
        return tuple(self.model.mlProgram.functions)

    @property
    def default_function(self) -> str:
        """The function that runs unless another is asked for."""
        return str(self.model.description.defaultFunctionName) or MAIN

    def function(self, name: str | None = None) -> Any:
        """One function, by default the default one. Raises `ArtifactError` if there is none of that name."""
        wanted, functions = name or self.default_function, self.model.mlProgram.functions
        if wanted not in functions:
            raise ArtifactError(f"{self.path} has no function '{wanted}'; it has {', '.join(sorted(functions))}.")
        return functions[wanted]

    def block(self, name: str | None = None) -> Any:
        """The operations and outputs of one function. Raises `ArtifactError` if it has none for its own opset."""
        function = self.function(name)
        block = function.block_specializations.get(function.opset)
        if block is None:
            raise ArtifactError(
                f"{self.path}: function '{name or self.default_function}' has no block for its opset "
                f"'{function.opset}'."
            )
        return block

    def blob(self, value: Any) -> Blob | None:
        """The blob that a value of the program keeps in a weight file, if it does."""
        if value.WhichOneof("value") != "blobFileValue":
            return None
        return self.weights.file(value.blobFileValue.fileName).blob(value.blobFileValue.offset)


def new_weight_file(package: Path) -> Path:
    """Where the weights of the new package `package` go; makes its folders."""
    folder = package / DATA_FOLDER / COREML_FOLDER / WEIGHTS_FOLDER
    folder.mkdir(parents=True)
    return folder / WEIGHT_FILE


def copy_weights(source: Package, operations: Iterable[Any], weights: WeightWriter) -> None:
    """Copy the weights of protobuf `operations` from their package to another weight file, and point them there."""
    for operation in operations:
        for value in _values(operation):
            blob = source.blob(value)
            if blob is not None:
                value.blobFileValue.fileName = f"{MODEL_PATH}/{WEIGHTS_FOLDER}/{WEIGHT_FILE}"
                value.blobFileValue.offset = weights.add(blob)


def _values(operation: Any) -> Iterator[Any]:
    """Every value written into a protobuf operation, by the names of its arguments: maps have no order of their own."""
    for name in sorted(operation.inputs):
        for argument in operation.inputs[name].arguments:
            if argument.WhichOneof("binding") == "value":
                yield argument.value
    yield from (operation.attributes[name] for name in sorted(operation.attributes))


def rename_reads(operations: Iterable[Any], renamed: Mapping[str, str]) -> None:
    """Let protobuf `operations` read values by their new names."""
    for operation in operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name in renamed:
                    binding.name = renamed[binding.name]


def write_model(model: Any, package: Path) -> None:
    """Finish a package whose weights stand in place: its model file and its Manifest.json.

    The same model gives the same bytes.
    """
    (package / DATA_FOLDER / COREML_FOLDER / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    write_package_manifest(package)


def write_package_manifest(path: Path) -> None:
    """The package's own Manifest.json, as Core ML's ModelPackage format 1.0.0 has it.

    Identifiers are derived from names, not random, so that equal packages are equal files. The form is the one in
    which coremltools leaves the file whenever it has opened a package, so that opening one changes nothing.
    """
    items = {
        _identifier(name): {
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
        "rootModelIdentifier": _identifier(MODEL_FILE),
    }
    (path / LISTING_FILE).write_text(listing_text(content), encoding="utf-8")


def _identifier(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name))
