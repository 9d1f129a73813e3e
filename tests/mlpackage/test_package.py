"""Packages: opened through their Manifest.json, broken, written, left as they are by coremltools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.libmodelpackage import ModelPackage

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.package import Package, copy_weights, new_weight_file, write_model
from sfmobile.mlpackage.program import load_program
from sfmobile.mlpackage.weight_file import WeightWriter
from tests.mlpackage.packages import change_model, model_file


def test_missing_parts_are_named(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing\.mlpackage is missing; expected an \.mlpackage directory"):
        Package(tmp_path / "nothing.mlpackage")
    model_file(package).unlink()
    with pytest.raises(ArtifactError, match=r"model\.mlmodel is missing"):
        Package(package)
    (package / "Manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"its Manifest\.json is missing"):
        Package(package)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"rootModelIdentifier": "model"}', b'{"itemInfoEntries": 3}', b"\xff\xfe"]
)
def test_a_broken_package_manifest(package: Path, content: bytes) -> None:
    (package / "Manifest.json").write_bytes(content)
    found = r"Manifest\.json' is not .*the manifest of an \.mlpackage.*; copy or download the model anew, or export it"
    with pytest.raises(ArtifactError, match=found):
        Package(package)


def test_a_package_manifest_without_its_model(package: Path) -> None:
    listing = json.loads((package / "Manifest.json").read_text())
    (package / "Manifest.json").write_text(json.dumps({**listing, "rootModelIdentifier": "other"}))
    with pytest.raises(ArtifactError, match=r"Manifest\.json' names no file for its model: expected an entry 'other'"):
        Package(package)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../model.mlmodel"])
def test_a_package_manifest_that_leads_out(package: Path, path: str) -> None:
    listing = json.loads((package / "Manifest.json").read_text())
    listing["itemInfoEntries"]["model"]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(listing))
    with pytest.raises(ArtifactError, match="which isn't inside the package"):
        Package(package)


def test_another_kind_of_model_is_named(package: Path) -> None:
    change_model(package, lambda model: model.neuralNetwork.SetInParent())
    with pytest.raises(ArtifactError, match=r"of the kind before ML Programs \(neuralNetwork\); expected an ML"):
        Package(package)


def test_a_function_that_isnt_there_is_named_with_those_that_are(package: Path) -> None:
    opened = Package(package)
    assert opened.functions == ("main",) and opened.default_function == "main"
    with pytest.raises(ArtifactError, match="has no function 'other'; it has main"):
        opened.block("other")


def copied(package: Path, target: Path) -> Path:
    """The package put together anew, weights copied from file to file."""
    source = Package(package)
    with WeightWriter(new_weight_file(target)) as weights:
        copy_weights(source, source.block().operations, weights)
    write_model(source.model, target)
    return target


def test_a_package_put_together_anew_holds_what_the_first_held(package: Path, tmp_path: Path) -> None:
    programs = [load_program(path) for path in (package, copied(package, tmp_path / "copy.mlpackage"))]
    assert programs[0].constants.keys() == programs[1].constants.keys()
    for name, constant in programs[0].constants.items():
        np.testing.assert_array_equal(constant.load(), programs[1].constants[name].load())


def test_a_program_may_keep_its_weights_in_a_file_of_any_name(package: Path, tmp_path: Path) -> None:
    """What the program names is read, not what we would have called it; copies have one file, called as ours."""
    weights = model_file(package).parent / "weights"
    (weights / "weight.bin").rename(weights / "other.bin")

    def rename(model: Any) -> None:
        for function in model.mlProgram.functions.values():
            for operation in function.block_specializations[function.opset].operations:
                value = operation.attributes["val"] if operation.type == "const" else None
                if value is not None and value.WhichOneof("value") == "blobFileValue":
                    value.blobFileValue.fileName = "@model_path/weights/other.bin"

    change_model(package, rename)
    whole, copy = load_program(package), load_program(copied(package, tmp_path / "copy.mlpackage"))
    kernels = [next(c for c in one.constants.values() if len(c.type.shape) == 4).load() for one in (whole, copy)]
    np.testing.assert_array_equal(*kernels)


def test_opening_a_written_package_with_coremltools_leaves_every_byte(package: Path, tmp_path: Path) -> None:
    target = copied(package, tmp_path / "copy.mlpackage")
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    opened = ModelPackage(str(target))
    assert opened.getRootModel().path()
    del opened
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
