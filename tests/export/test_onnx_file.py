from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from sfmobile.bundle.choices import FloatType
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.verify.signal import psnr

GATES: dict[FloatType, float] = {"float32": 110, "float16": 65}


@pytest.mark.parametrize("precision", GATES)
def test_onnx_bundle_computes_what_the_networks_compute(
    tiny_checkpoint: Checkpoint, tmp_path: Path, precision: FloatType
) -> None:
    options = ExportOptions(format="onnx", precision=precision, latent_size=(8, 16), attention="original", author="A")
    export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    bundle = Bundle.open(tmp_path / "bundle")
    for name, record in bundle.manifest.components.items():
        torch.manual_seed(0)
        inputs = {
            item.name: torch.randint(0, 500, item.shape, dtype=torch.int32)
            if item.dtype == "int32"
            else torch.randn(item.shape).to(getattr(torch, item.dtype))
            for item in record.inputs
        }
        assert {item.dtype for item in (*record.inputs, *record.outputs)} <= {precision, "int32"}
        with torch.no_grad():
            wide = [value if value.dtype == torch.int32 else value.float() for value in inputs.values()]
            expected = tiny_checkpoint.load(name)(*wide).numpy()
        session = onnxruntime.InferenceSession(str(bundle.package(name)), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        assert psnr(expected, found) > GATES[precision]
        assert {path.removeprefix(record.package) for path in record.files} == {"", ".data"}
        model = onnx.load(str(bundle.package(name)), load_external_data=False)
        assert {item.key: item.value for item in model.metadata_props}["author"] == "A"
        assert [item.doc_string for item in model.graph.input] == [item.description for item in record.inputs]
