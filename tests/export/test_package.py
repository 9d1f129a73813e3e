from __future__ import annotations

import json
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch

from sfmobile.bundle.choices import Target
from sfmobile.bundle.digest import digest_tree
from sfmobile.bundle.manifest import TensorRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe, compressible_layers
from sfmobile.export.component import Setting, component_specs
from sfmobile.export.network import NetworkPackage
from sfmobile.export.package import PackageMetadata
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.signal import psnr

METADATA = PackageMetadata("Decodes.", "A. U. Thor", "MIT", "1.2", {"colour": "red", "b": "2"})


def inputs(checkpoint: Checkpoint) -> tuple[TensorRecord, ...]:
    return component_specs(checkpoint)["decoder"].inputs(Setting(checkpoint, (8, 8), 2))


def outputs(checkpoint: Checkpoint) -> tuple[TensorRecord, ...]:
    return component_specs(checkpoint)["decoder"].outputs(Setting(checkpoint, (8, 8), 2))


def write(checkpoint: Checkpoint, path: Path, target: Target = "ios17", layer: LayerRecipe | None = None) -> None:
    chosen = {} if layer is None else dict.fromkeys(layers(checkpoint), layer)
    package = NetworkPackage(inputs(checkpoint), outputs(checkpoint), target, METADATA, chosen)
    package.write(checkpoint.load("decoder", torch.float16), path)


def layers(checkpoint: Checkpoint) -> list[str]:
    shapes = {key: tuple(weight.shape) for key, weight in checkpoint.state_dict("decoder").items()}
    return list(compressible_layers(shapes))


def test_package_says_what_it_is(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    write(tiny_checkpoint, tmp_path / "Decoder.mlpackage")
    model = ct.models.MLModel(str(tmp_path / "Decoder.mlpackage"), skip_model_load=True)
    assert (model.short_description, model.author, model.license, model.version) == (
        "Decodes.",
        "A. U. Thor",
        "MIT",
        "1.2",
    )
    assert dict(model.user_defined_metadata) == {"colour": "red", "b": "2"}
    (record,), (output,) = inputs(tiny_checkpoint), outputs(tiny_checkpoint)
    assert model.input_description["latents"] == record.description
    assert model.output_description["image"] == output.description
    for feature, expected in (
        (model.get_spec().description.input[0], record),
        (model.get_spec().description.output[0], output),
    ):
        assert tuple(feature.type.multiArrayType.shape) == expected.shape
        assert feature.type.multiArrayType.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT16


@pytest.mark.parametrize(("target", "version"), [("ios16", 7), ("ios17", 8), ("ios18", 9)])
def test_target_is_the_specification_version(
    tiny_checkpoint: Checkpoint, tmp_path: Path, target: Target, version: int
) -> None:
    write(tiny_checkpoint, tmp_path / "Decoder.mlpackage", target)
    assert ct.utils.load_spec(str(tmp_path / "Decoder.mlpackage")).specificationVersion == version


def test_layout_is_that_of_coremltools_own_packages(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.mlpackage", tmp_path / "theirs.mlpackage"
    write(tiny_checkpoint, ours)
    weights = ours / "Data/com.apple.CoreML/weights"
    ct.utils.save_spec(ct.utils.load_spec(str(ours)), str(theirs), weights_dir=str(weights))

    def described(package: Path) -> tuple[object, ...]:
        manifest = json.loads((package / "Manifest.json").read_text())
        items = manifest["itemInfoEntries"]
        root = items[manifest["rootModelIdentifier"]]["path"]
        ordered = sorted(items.values(), key=lambda item: str(item["path"]))
        return manifest["fileFormatVersion"], sorted(manifest), root, ordered, sorted(digest_tree(package, "Data"))

    assert described(ours) == described(theirs)


def test_same_input_gives_the_same_bytes(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tiny_checkpoint, tmp_path / name / "Decoder.mlpackage", layer=LayerRecipe(bits=4))
    one, two = digest_tree(tmp_path / "one", "."), digest_tree(tmp_path / "two", ".")
    assert one == two and len(one) == 3


@pytest.mark.parametrize(
    ("target", "layer"),
    [
        *(("ios16", LayerRecipe(bits=bits)) for bits in (1, 2, 4, 6, 8)),
        *(("ios18", LayerRecipe(bits=bits)) for bits in (3, 6)),
        ("ios18", LayerRecipe(bits=2, group_size=4)),
    ],
    ids=str,
)
def test_package_computes_with_exactly_the_palettized_weights(
    tiny_checkpoint: Checkpoint, tmp_path: Path, target: Target, layer: LayerRecipe
) -> None:
    path = tmp_path / "Decoder.mlpackage"
    write(tiny_checkpoint, path, target, layer)
    net = tiny_checkpoint.load("decoder")
    weights = net.state_dict()
    for name in layers(tiny_checkpoint):
        half = weights[f"{name}.weight"].half().numpy()
        weights[f"{name}.weight"] = torch.from_numpy(palettize_weight(half, layer).dense().astype(np.float32))
    net.load_state_dict(weights)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(latents.half().float()).numpy()
    found = Evaluator(load_program(path), "fp32")({"latents": latents.half()})["image"]
    assert psnr(expected, found) > 90
