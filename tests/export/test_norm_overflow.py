"""No form of an export squares activations in float16: above 255 the square would be infinite.

A text encoder whose residual stream goes up to 20,000 is exported in every form and computed in float16, operation by
operation, as hardware would.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from safetensors.torch import load_file, save_file

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.component import component_specs, setting_for
from sfmobile.export.exporter import export_bundle
from sfmobile.export.lowering import TORCH_DTYPES
from sfmobile.export.onnx_file import write_onnx
from sfmobile.export.options import COREAI_TARGET, ExportOptions
from sfmobile.export.package import PackageMetadata
from sfmobile.export.weights import load_network
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.signal import psnr

LARGEST = 20000.0
GATE_DB = 45.0
IDS = np.random.default_rng(0).integers(0, 600, (1, 77)).astype(np.int32)
# How a norm is spelled out where it is no operation of its own.
SPELLED_OUT = {"square", "pow", "sqrt", "rsqrt", "reduce_mean", "reduce_sum", "reduce_sum_square", "real_div"}


class LayerNormalization(OpRun):
    """As ONNX specifies it (`stash_type` 1: the statistics are float32); its own reference leaves them in float16."""

    op_domain = ""

    def _run(self, x, scale, shift=None, axis=None, epsilon=None, stash_type=None):  # type: ignore[no-untyped-def]
        assert stash_type == 1
        wide = torch.from_numpy(x).float()
        axes = tuple(range(axis % x.ndim, x.ndim))
        centred = wide - wide.mean(axes, keepdim=True)
        normal = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)
        return (((normal.to(torch.from_numpy(x).dtype).numpy()) * scale + (0 if shift is None else shift)),)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The tiny checkpoint with token embeddings as large as float16 bears."""
    root = tmp_path_factory.mktemp("checkpoints") / "large"
    shutil.copytree(tiny_checkpoint.root, root)
    (file,) = (root / "text_encoder").glob("*.safetensors")
    weights = load_file(file)
    (name,) = (name for name in weights if name.endswith("token_embedding.weight"))
    wide = weights[name].float()
    weights[name] = (wide * (LARGEST / wide.abs().max())).half()
    save_file(weights, file)
    return Checkpoint.open(root)


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> np.ndarray:
    """Of torch in fp32."""
    with torch.no_grad():
        result: np.ndarray = checkpoint.load("text_encoder", torch.float32)(torch.from_numpy(IDS)).numpy()
    return result


def test_an_ml_program_bears_it(checkpoint: Checkpoint, expected: np.ndarray, tmp_path: Path) -> None:
    options = ExportOptions(components=("text_encoder",), target="ios16")
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    with MilRuntime(bundle, "fp16").load("text_encoder") as component:
        (found,) = component.predict({"input_ids": IDS}).values()
    assert psnr(expected, found) > GATE_DB


def test_an_aimodel_bears_it_on_apples_runtime(checkpoint: Checkpoint, expected: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")
    from sfmobile.runtime.coreai.runtime import CoreAIRuntime

    options = ExportOptions(format="coreai", target=COREAI_TARGET, components=("text_encoder",))
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    with CoreAIRuntime(bundle, "fp16").load("text_encoder") as component:
        (found,) = component.predict({"input_ids": IDS}).values()
    assert psnr(expected, found) > GATE_DB


def test_an_onnx_file_bears_it(checkpoint: Checkpoint, expected: np.ndarray, tmp_path: Path) -> None:
    """Every operation in float16 by ONNX's own reference: ONNX Runtime on a CPU would widen them unasked."""
    spec, setting = component_specs(checkpoint)["text_encoder"], setting_for(checkpoint, ExportOptions())
    net = load_network(checkpoint, "text_encoder", tmp_path / "scratch", TORCH_DTYPES["float16"])
    path = tmp_path / "text.onnx"
    write_onnx(net, path, PackageMetadata(""), spec.inputs(setting), spec.outputs(setting))
    (found,) = ReferenceEvaluator(str(path), new_ops=[LayerNormalization]).run(None, {"input_ids": IDS})
    assert found.dtype == np.float16
    assert psnr(expected, found) > GATE_DB


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_palettized_bundle"])
def test_no_ml_program_spells_a_norm_out(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    for component in bundle.manifest.components:
        kinds = {operation.kind for operation in load_program(bundle.package(component)).operations}
        assert not kinds & SPELLED_OUT
