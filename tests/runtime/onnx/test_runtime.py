"""The onnx runtime on small ONNX files."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.runtime.opening import open_runtime
from tests.runtime.sample import COLOURS, TABLE, expected_output, sample_inputs


def write_onnx(path: Path, name: str, kind: int, shape: tuple[int, ...] = (1, 4, 8, 8)) -> None:
    """The sample's decoder or text encoder as ONNX, with float tensors of type `kind`."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if name == "decoder":
        nodes = [helper.make_node("Conv", ["latents", "weight"], ["image"])]
        weight = numpy_helper.from_array(COLOURS.astype(dtype), "weight")
        inputs = [helper.make_tensor_value_info("latents", kind, shape)]
        outputs = [helper.make_tensor_value_info("image", kind, (1, 3, 8, 8))]
    else:
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
            helper.make_node("Unsqueeze", ["columns", "axes"], ["encoder_hidden_states"]),
        ]
        weight = numpy_helper.from_array(TABLE.astype(dtype), "table")
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT32, (1, 77))]
        outputs = [helper.make_tensor_value_info("encoder_hidden_states", kind, (1, 16, 1, 77))]
    axes = numpy_helper.from_array(np.array([2]), "axes")
    graph = helper.make_graph(nodes, name, inputs, outputs, [weight, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def onnx_bundle(bundle: Bundle, root: Path) -> Bundle:
    """The sample bundle's manifest, its components as ONNX files under `root`."""
    records = {
        name: record.model_copy(update={"format": "onnx", "package": f"{name}.onnx"})
        for name, record in bundle.manifest.components.items()
    }
    return Bundle(root, bundle.manifest.model_copy(update={"components": records}))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("name", ["decoder", "text_encoder"])
def test_onnx_files_are_executed_in_their_own_precision(
    runtime_bundle: Bundle, tmp_path: Path, name: Any, kind: int
) -> None:
    write_onnx(tmp_path / f"{name}.onnx", name, kind)
    runtime = open_runtime("onnx", onnx_bundle(runtime_bundle, tmp_path))
    assert runtime.describe().startswith("onnx (ONNX Runtime ")
    inputs = sample_inputs(name)
    with runtime.load(name) as component:
        (output,) = component.predict(inputs).values()
    assert output.dtype == np.float32
    tolerance = 1e-6 if kind == TensorProto.FLOAT else 1e-2
    np.testing.assert_allclose(output, expected_output(name, inputs), atol=tolerance)


def test_a_missing_file_and_a_broken_one_are_artifact_errors(runtime_bundle: Bundle, tmp_path: Path) -> None:
    runtime = open_runtime("onnx", onnx_bundle(runtime_bundle, tmp_path))
    with pytest.raises(ArtifactError, match=r"decoder\.onnx is missing"):
        runtime.load("decoder")
    write_onnx(tmp_path / "decoder.onnx", "decoder", TensorProto.FLOAT)
    whole = (tmp_path / "decoder.onnx").read_bytes()
    (tmp_path / "decoder.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"decoder\.onnx can't be read by ONNX Runtime"):
        runtime.load("decoder")


def test_a_file_that_isnt_what_the_manifest_says_is_an_artifact_error(runtime_bundle: Bundle, tmp_path: Path) -> None:
    write_onnx(tmp_path / "decoder.onnx", "decoder", TensorProto.FLOAT, shape=(2, 4, 8, 8))
    with pytest.raises(ArtifactError, match=r"inputs are .*\[2, 4, 8, 8\].* in the file and .*\[1, 4, 8, 8\]"):
        open_runtime("onnx", onnx_bundle(runtime_bundle, tmp_path)).load("decoder")


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_ml_programs_are_translated(runtime_bundle: Bundle, name: ComponentName) -> None:
    runtime = open_runtime("onnx", runtime_bundle)
    assert runtime.describe().startswith("onnx fp32, translated from ML Programs (ONNX Runtime ")
    inputs = sample_inputs(name)
    with runtime.load(name) as component:
        (output,) = component.predict(inputs).values()
    np.testing.assert_allclose(output, expected_output(name, inputs), atol=1e-5)


def test_without_onnx_runtime_the_mend_is_named(runtime_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnavailableError, match=r"isn't installed; run pip install 'sfmobile\[onnx\]'"):
        open_runtime("onnx", runtime_bundle)
