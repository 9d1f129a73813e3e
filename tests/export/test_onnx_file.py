from __future__ import annotations

import math
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from sfmobile.bundle.choices import ATTENTION_FORMS, AttentionForm, FloatType
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import TensorRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.onnx_file import write_onnx
from sfmobile.export.options import ExportOptions
from sfmobile.export.package import PackageMetadata
from sfmobile.nets.attention import Attention, set_attention_form
from sfmobile.signal import psnr

GATES: dict[FloatType, float] = {"float32": 110, "float16": 65}

SPELLED_OUT = {"Pow", "Sqrt", "Reciprocal", "ReduceMean", "ReduceSum", "ReduceSumSquare"}


@pytest.mark.parametrize("precision", GATES)
def test_onnx_bundle_computes_what_the_networks_compute(
    smallest_checkpoint: Checkpoint, tmp_path: Path, precision: FloatType
) -> None:
    options = ExportOptions(format="onnx", precision=precision, latent_size=(8, 16), attention="original", author="A")
    export_bundle(smallest_checkpoint, tmp_path / "bundle", options)
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
            expected = smallest_checkpoint.load(name)(*wide).numpy()
        session = onnxruntime.InferenceSession(str(bundle.package(name)), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        assert psnr(expected, found) > GATES[precision]
        assert {path.removeprefix(record.package) for path in record.files} == {"", ".data"}
        model = onnx.load(str(bundle.package(name)), load_external_data=False)
        # Every norm is one operation: spelled out, it would square activations in float16.
        assert not SPELLED_OUT & {node.op_type for node in model.graph.node}
        assert {item.key: item.value for item in model.metadata_props}["author"] == "A"
        assert [item.doc_string for item in model.graph.input] == [item.description for item in record.inputs]


@pytest.mark.parametrize("form", ATTENTION_FORMS)
def test_half_precision_scores_stay_finite_where_the_product_alone_would_not(
    tmp_path: Path, form: AttentionForm
) -> None:
    # Stable Diffusion 2.1 at 768 pixels reaches products of 114,617, which a head of 64 channels divides by 8.
    net = Attention(64, heads=1).half().eval()
    with torch.no_grad():
        for layer in (net.to_q, net.to_k, net.to_v, net.to_out[0]):
            layer.weight.copy_(torch.eye(64)[:, :, None, None])
        net.to_out[0].bias.zero_()
    set_attention_form(net, form)
    torch.manual_seed(0)
    x = torch.randn(1, 64, 1, 16).sign().half() * math.sqrt(114_617 / 64)
    record = TensorRecord(name="x", shape=tuple(x.shape), dtype="float16")
    metadata = PackageMetadata(description="", author="", licence="", version="", user={})
    write_onnx(net, tmp_path / "a.onnx", metadata, [record], [record.model_copy(update={"name": "y"})])
    # ONNX Runtime widens on a CPU; the reference rounds every node's result to half precision.
    (found,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(None, {"x": x.numpy()})
    # Each position looks at itself alone.
    assert psnr(x.float().numpy(), found.astype("float32")) > 60
