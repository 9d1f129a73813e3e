"""`sfmobile.inspect`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError, UsageError
from tests.mlpackage.packages import change_model
from tests.runtime.packages import convert, counter_model, picture_model, sum_model


def test_inspect_finds_in_python_what_the_command_prints(tiny_bundle: Bundle) -> None:
    found = sfmobile.inspect(tiny_bundle, component="unet", device="iphone-14-pro")
    assert list(found.packages) == ["unet"] == list(found.blocks) and found.time is not None
    assert "unet: blocks" in str(found) and "Time on iPhone 14 Pro" in str(found)
    assert found.record()["unet"]["blocks"][0]["block"] == found.blocks["unet"][0].block
    with pytest.raises(UsageError, match="need --device"):
        sfmobile.inspect(tiny_bundle, compute_plan="plan.json")


def test_altered_weights_may_be_looked_at_but_are_not_executed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    weights = next((root / tiny_bundle.manifest.components["unet"].package).rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert list(sfmobile.inspect(root, component="unet").packages) == ["unet"]
    with pytest.raises(ArtifactError, match=r"weight\.bin' has changed: expected SHA-256"):
        sfmobile.inspect(root, component="unet", activations=1)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages that others could have made."""
    folder = tmp_path_factory.mktemp("foreign")
    picture_model(folder / "picture.mlpackage")
    counter_model(folder / "counter.mlpackage")
    return folder


def test_pictures_states_and_defaults_are_listed(foreign: Path) -> None:
    (package,) = sfmobile.inspect(foreign / "picture.mlpackage").packages.values()
    assert package.inputs[0].picture == "RGB" and package.inputs[0].shape == (1, 3, 4, 6)
    (counter,) = sfmobile.inspect(foreign / "counter.mlpackage").packages.values()
    assert [(state.name, state.dtype, state.shape) for state in counter.states] == [("total", "fp16", (3,))]
    assert counter.functions == ("main",) and counter.operations["write_state"] == 1
    assert "picture RGB" in str(sfmobile.inspect(foreign / "picture.mlpackage"))


def test_an_unknown_operation_and_absent_weights_are_listed_all_the_same(foreign: Path, tmp_path: Path) -> None:
    package = tmp_path / "warped.mlpackage"
    module = torch.nn.Linear(64, 64)
    convert(module, [torch.rand(1, 64)], package, inputs=[ct.TensorType("x", (1, 64))])

    def warp(model: Any) -> None:
        (function,) = model.mlProgram.functions.values()
        (block,) = function.block_specializations.values()
        block.operations[-1].type = "warp"

    change_model(package, warp)
    assert sfmobile.inspect(package).packages["warped.mlpackage"].operations == {"warp": 1}
    (weights,) = package.rglob("weight.bin")
    weights.unlink()
    found = sfmobile.inspect(package)
    assert found.packages["warped.mlpackage"].weights == 64 * 64 + 64
    assert found.blocks["warped.mlpackage"] and not found.findings
    assert "weights of the program is missing; copy or download" in "".join(found.notes)


def test_every_function_of_a_package_is_listed(tmp_path: Path) -> None:
    one, both = sum_model(tmp_path / "one.mlpackage", default=None), tmp_path / "both.mlpackage"
    description = ct.utils.MultiFunctionDescriptor()
    description.add_function(str(one), src_function_name="main", target_function_name="main")
    description.add_function(str(one), src_function_name="main", target_function_name="other")
    description.default_function_name = "main"
    ct.utils.save_multifunction(description, str(both))
    found = sfmobile.inspect(both)
    assert list(found.packages) == ["both.mlpackage", "both.mlpackage other"]
    assert found.packages["both.mlpackage other"].function == "other"
    assert list(found.blocks) == ["both.mlpackage"]
    x = np.ones((2, 3), np.float32)
    assert (sfmobile.Model(both, function="other").predict({"x": x, "y": x})["sum"] == 3).all()
