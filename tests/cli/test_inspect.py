from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from sfmobile.bundle.directory import Bundle
from tests.cli.run import run


def test_weights_are_the_networks_parameters_and_bits_are_what_is_stored(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, capsys
) -> None:
    exact = json.loads(run(capsys, "inspect", tiny_bundle.root, "--json").out)
    packed = json.loads(run(capsys, "inspect", tiny_palettized_bundle.root, "--json").out)
    for name, record in tiny_bundle.manifest.components.items():
        # Beyond the parameters a program holds masks, and the statistics that a GroupNorm's affine part doesn't use.
        beyond = exact[name]["weights"] - record.parameters
        assert 0 <= beyond < (3 * 77 * 77 if name == "text_encoder" else 0.1 * record.parameters)
        assert 16 <= exact[name]["bits_per_weight"] < 20
        assert exact[name]["compressed_weights"] == 0 and exact[name]["bytes"] == record.bytes
    unet = packed["unet"]
    assert unet["bits_per_weight"] < 8 and unet["compressed_weights"] > 0.9 * unet["weights"]


def test_operations_inputs_and_outputs_are_the_programs(tiny_palettized_bundle: Bundle, capsys) -> None:
    said = json.loads(run(capsys, "inspect", tiny_palettized_bundle.root, "--component", "unet", "--json").out)
    assert list(said) == ["unet"]
    operations = said["unet"]["operations"]
    assert operations["conv"] == 83 and "instance_norm" in operations and "const" not in operations
    assert list(operations.values()) == sorted(operations.values(), reverse=True)
    assert [(tensor["name"], tensor["dtype"], tensor["shape"]) for tensor in said["unet"]["inputs"]] == [
        (tensor.name, "fp16", list(tensor.shape))
        for tensor in tiny_palettized_bundle.manifest.components["unet"].inputs
    ]


def test_a_package_is_inspected_by_itself_and_as_a_table(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.package("decoder"))
    assert outcome.code == 0 and "Decoder.mlpackage" in outcome.out and "1 x 3 x 16 x 16" in outcome.out


def test_onnx_files_are_inspected_too(tmp_path: Path, capsys) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((8, 4), np.float16), "weight")
    shape = onnx.numpy_helper.from_array(np.array([1, 8]), "shape")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "weight"], ["y"]),
            onnx.helper.make_node("Reshape", ["y", "shape"], ["z"]),
        ],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, [2, "n"])],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT16, [1, 8])],
        [weight, shape],
    )
    path = tmp_path / "Decoder.onnx"
    onnx.save_model(
        onnx.helper.make_model(graph), path, save_as_external_data=True, location="Decoder.bin", size_threshold=0
    )
    (said,) = json.loads(run(capsys, "inspect", path, "--json").out).values()
    assert said["format"] == "onnx" and said["operations"] == {"MatMul": 1, "Reshape": 1}
    assert said["weights"] == 32 and said["bits_per_weight"] == 16
    assert said["bytes"] == path.stat().st_size + (tmp_path / "Decoder.bin").stat().st_size
    (given,) = said["inputs"]
    assert {key: value for key, value in given.items() if value} == {
        "name": "x",
        "dtype": "float16",
        "shape": [2, None],
    }


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [("nothing", None, "doesn't exist"), ("a.txt", b"hello", "neither a bundle"), ("a.onnx", b"\xff\xff", "a.onnx")],
)
def test_what_is_no_package_is_refused(name: str, content: bytes | None, sentence: str, tmp_path: Path, capsys) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = run(capsys, "inspect", tmp_path / name)
    assert outcome.code == 4 and sentence in outcome.sentence


def test_a_truncated_program_is_refused(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    package = Path(shutil.copytree(tiny_bundle.package("decoder"), tmp_path / "Decoder.mlpackage"))
    model = next(package.rglob("*.mlmodel"))
    model.write_bytes(model.read_bytes()[:1000])
    outcome = run(capsys, "inspect", package)
    assert outcome.code == 4 and model.name in outcome.sentence


def test_components_are_those_the_bundle_has(tiny_bundle: Bundle, capsys) -> None:
    outcome = run(capsys, "inspect", tiny_bundle.root, "--component", "vae")
    assert outcome.code == 2 and "text_encoder, unet, decoder" in outcome.sentence
    outcome = run(capsys, "inspect", tiny_bundle.package("unet"), "--component", "unet")
    assert outcome.code == 2 and "is not a bundle" in outcome.sentence
