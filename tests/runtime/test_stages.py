"""Models kept otherwise than in an .mlpackage of one program: pipelines, single files, compiled ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from PIL import Image

import sfmobile
from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError, UsageError
from sfmobile.mlpackage import schema
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.weight_file import Blob, WeightWriter
from tests.runtime.packages import picture_model, sum_model

X = np.arange(6, dtype=np.float32).reshape(2, 3)

MIL = """program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "1877.40.3 (a)"}})]
{
    func main<ios16>(tensor<fp32, [1, 3, 4, 6]> image, tensor<fp16, [3, ?]> x) [FlexibleShapeInformation =
      tuple<tuple<string, dict<string, tensor<int32, [?]>>>>((("DefaultShapes", {{"x", [3, 2]}})))] {
            tensor<string, []> y_dtype = const()[name = tensor<string, []>("y_dtype"), val = string("fp32")];
            tensor<fp16, [2, 3]> w = const()[name = tensor<string, []>("w"), val = tensor<fp16, [2, 3]>(BLOBFILE(path =
              tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64)))];
            fp16 half = const()[name = string("half"), val = fp16(-0x1p-1)];
            bool no = const()[name = string("no"), val = bool(false)];
            tensor<fp16, [2, ?]> y = matmul(transpose_x = no, transpose_y = no, x = w,
              y = x)[name = string("y \\"q\\"")];
            tensor<fp16, [2, ?]> z = mul(x = y, y = half)[name = string("z")];
            tensor<int32, [1]> axes = const()[name = string("axes"), val = tensor<int32, [1]>([2])];
            tensor<fp32, [1, 3, 6]> mean = reduce_mean(axes = axes, keep_dims = no, x = image)[name = string("mean")];
            tensor<fp32, [1, 1, 6]> r, tensor<fp32, [1, 1, 6]> g, tensor<fp32, [1, 1, 6]> b = split(axis = int32(1),
              num_splits = int32(3), x = mean)[name = string("parts")];
            tensor<fp32, [1, 3, 6]> bgr = concat(axis = int32(1), interleave = no,
              values = (b, g, r))[name = string("c")];
        } -> (z, bgr);
}
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A compiled model as Xcode leaves it."""
    model = tmp_path / "net.mlmodelc"
    (model / "weights").mkdir(parents=True)
    (model / "model.mil").write_text(MIL)
    weights = np.arange(6, dtype=np.float16)
    with WeightWriter(model / "weights" / "weight.bin") as writer:
        assert writer.add(Blob(1, 0, weights.view(np.uint8))) == 64
    picture = {"type": "Image", "name": "image", "width": "6", "height": "4", "colorspace": "RGB", "isOptional": "0"}
    (model / "metadata.json").write_text(json.dumps([{"inputSchema": [picture], "outputSchema": []}]))
    return model


def test_a_compiled_model_is_read_from_its_text(compiled: Path) -> None:
    model = sfmobile.Model(compiled)
    assert {name: str(type_) for name, type_ in model.inputs.items()} == {
        "image": "fp32[1, 3, 4, 6]",
        "x": "fp16[3, ?]",
    }
    x = np.random.default_rng(0).integers(-3, 3, (3, 5)).astype(np.float16)
    found = model.predict({"image": Image.new("RGB", (6, 4), (1, 2, 3)), "x": x})
    np.testing.assert_array_equal(found["z"], -0.5 * np.arange(6).reshape(2, 3) @ x)
    assert found["bgr"][0, :, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("reduce_mean(", "reduce_mean{", r"line \d+ has '{' where '\(' is expected"),
        ("fp16(-0x1p-1)", 'fp16("a")', "is truncated or altered: could not convert"),
        ("} -> (z, bgr);\n}", "} -> (z, bgr);", "has 'the end' where 'func' is expected"),
        ("tensor<int32, [1]>([2])", "tensor<int32, [1]>(" + "[" * 100, "where fewer brackets is expected"),
        ("fp16 half", "fp17 half", "'fp17' is no data type"),
        ("offset = tensor<uint64, []>(64)", "offset = tensor<uint64, []>(6400)", "expected blob metadata at byte 6400"),
        ("weights/weight.bin", "../weight.bin", "isn't inside the package"),
        ("x = mean", "x = later", "uses 'later' before it is computed"),
        ('[name = string("z")];', '[name = string("z")] { };', "has blocks, whose written form isn't known"),
    ],
)
def test_a_broken_text_is_one_sentence(old: str, new: str, sentence: str, compiled: Path) -> None:
    file = compiled / "model.mil"
    assert old in MIL
    file.write_text(MIL.replace(old, new))
    with pytest.raises(ArtifactError, match=sentence):
        sfmobile.Model(compiled).predict({"image": np.zeros((1, 3, 4, 6)), "x": np.zeros((3, 1))})


def test_a_compiled_neural_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.mlmodelc").mkdir()
    (tmp_path / "old.mlmodelc" / "model.espresso.net").write_text("{}")
    with pytest.raises(UnavailableError, match=r"compiled from a neural network of the kind before ML Programs"):
        sfmobile.Model(tmp_path / "old.mlmodelc")


def test_a_single_file_holds_a_program_without_weights(tmp_path: Path) -> None:
    package = sum_model(tmp_path / "sum.mlpackage")
    (inside,) = package.rglob("model.mlmodel")
    single = tmp_path / "sum.mlmodel"
    single.write_bytes(inside.read_bytes())
    assert np.array_equal(sfmobile.Model(single).predict({"x": X})["sum"], X + 1)


def test_a_pipeline_runs_its_stages(tmp_path: Path) -> None:
    first = ct.models.MLModel(str(sum_model(tmp_path / "a.mlpackage")), skip_model_load=True)
    spec = schema.model().Model.FromString(first.get_spec().SerializeToString())
    whole = schema.model().Model(specificationVersion=spec.specificationVersion)
    whole.description.CopyFrom(spec.description)
    del whole.description.output[:]
    whole.pipeline.models.add().CopyFrom(spec)
    scaler = whole.pipeline.models.add()
    scaler.description.input.add(name="sum").type.multiArrayType.shape.extend([2, 3])
    output = whole.description.output.add(name="scaled")
    output.type.multiArrayType.shape.extend([2, 3])
    output.type.multiArrayType.dataType = 65600
    scaler.description.output.add().CopyFrom(output)
    scaler.scaler.shiftValue.append(1.0)
    scaler.scaler.scaleValue.append(10.0)
    single = tmp_path / "both.mlmodel"
    single.write_bytes(whole.SerializeToString())
    model = sfmobile.Model(single)
    assert list(model.inputs) == ["x", "y"] and list(model.outputs) == ["scaled"]
    assert np.array_equal(model.predict({"x": X})["scaled"], 10 * (X + 2))
    with pytest.raises(UsageError, match=r"both\.mlmodel has no input 'z'"):
        model.predict({"z": X})
    whole.pipeline.models.add().treeEnsembleRegressor.SetInParent()
    single.write_bytes(whole.SerializeToString())
    with pytest.raises(UnavailableError, match=r"stage 3 of the pipeline is a tree ensemble \(treeEnsembleRegressor\)"):
        sfmobile.Model(single)


def suppression() -> Any:
    model = schema.model().Model(specificationVersion=4)
    settings = model.nonMaximumSuppression
    for field, name in (
        ("confidenceInputFeatureName", "raw_confidence"),
        ("coordinatesInputFeatureName", "raw_coordinates"),
        ("confidenceOutputFeatureName", "confidence"),
        ("coordinatesOutputFeatureName", "coordinates"),
        ("iouThresholdInputFeatureName", "iouThreshold"),
        ("confidenceThresholdInputFeatureName", "confidenceThreshold"),
    ):
        setattr(settings, field, name)
    settings.iouThreshold, settings.confidenceThreshold = 0.5, 0.25
    settings.pickTop.perClass = True
    for name in ("raw_confidence", "raw_coordinates"):
        model.description.input.add(name=name).type.multiArrayType.dataType = 65600
    for name in ("iouThreshold", "confidenceThreshold"):
        feature = model.description.input.add(name=name)
        feature.type.doubleType.SetInParent()
        feature.type.isOptional = True
    for name in ("confidence", "coordinates"):
        model.description.output.add(name=name).type.multiArrayType.dataType = 65600
    return model


def test_a_detector_keeps_the_best_of_the_boxes_that_overlap(tmp_path: Path) -> None:
    part = suppression()
    whole = schema.model().Model(specificationVersion=4)
    whole.description.CopyFrom(part.description)
    whole.pipeline.models.add().CopyFrom(part)
    (tmp_path / "detector.mlmodel").write_bytes(whole.SerializeToString())
    model = sfmobile.Model(tmp_path / "detector.mlmodel")
    boxes = np.array([[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])
    confidence = np.array([[0.8, 0.0], [0.9, 0.1], [0.1, 0.7], [0.2, 0.1]])
    found = model.predict({"raw_confidence": confidence, "raw_coordinates": boxes})
    np.testing.assert_allclose(found["coordinates"], boxes[[1, 2]].astype(np.float32))
    more = model.predict({"raw_confidence": confidence, "raw_coordinates": boxes, "confidenceThreshold": 0.15})
    np.testing.assert_allclose(more["confidence"], confidence[[1, 2, 3]].astype(np.float32))


@pytest.mark.parametrize("file", ["weight.bin", "model.mlmodel", "Manifest.json"])
def test_a_pointer_of_git_lfs_is_named(file: str, tmp_path: Path) -> None:
    package = picture_model(tmp_path / "p.mlpackage")
    with WeightWriter(package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin") as writer:
        writer.add(Blob(1, 0, np.zeros(2, np.uint8)))
    (found,) = package.rglob(file)
    found.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ArtifactError, match=r"is a pointer of Git LFS in place of the file itself; run `git lfs pull`"):
        Package(package).weights.file("@model_path/weights/weight.bin")


def test_random_bytes_are_never_more_than_a_sentence(tmp_path: Path) -> None:
    single = tmp_path / "junk.mlmodel"
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 64, 4096):
        single.write_bytes(rng.bytes(size))
        with pytest.raises(SfmobileError):
            sfmobile.Model(single)
