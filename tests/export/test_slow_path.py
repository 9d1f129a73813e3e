"""Our programs beside those of the usual path: fp32 `torch.jit.trace`, `ct.convert` with its casting passes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch

from sfmobile.bundle.manifest import ComponentName
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.component import Setting, component_specs
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.export.quiet import quiet
from sfmobile.mlpackage.program import Program, load_program
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.signal import psnr

# What the usual path spells out where ours has one operation (instance_norm, layer_norm, a transposing matmul), what it
# casts, and the guard it puts around token ids.
ONLY_THEIRS = {
    *("square", "reduce_mean", "sqrt", "rsqrt", "real_div", "sub", "transpose", "cast"),
    *("greater_equal", "select"),
}

# What both have equally often: everything that costs.
COMMON = ("conv", "matmul", "softmax", "silu", "gelu", "sigmoid", "concat", "gather", "upsample_nearest_neighbor")


def usual_package(checkpoint: Checkpoint, name: ComponentName, path: Path) -> None:
    inputs = component_specs(checkpoint)[name].inputs(Setting(checkpoint, (8, 8), 2))
    examples = tuple(
        torch.zeros(item.shape, dtype=torch.int32) if item.dtype == "int32" else torch.randn(item.shape)
        for item in inputs
    )
    with quiet(), torch.no_grad():
        model = ct.convert(
            torch.jit.trace(checkpoint.load(name), examples),
            inputs=[ct.TensorType(name=i.name, shape=i.shape, dtype=np.dtype(i.dtype).type) for i in inputs],
            outputs=[
                ct.TensorType(name=item.name)
                for item in component_specs(checkpoint)[name].outputs(Setting(checkpoint, (8, 8), 2))
            ],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
        model.save(str(path))


def kinds(program: Program) -> Counter[str]:
    return Counter(operation.kind for operation in program.operations)


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_programs_differ_only_where_explained_and_never_for_the_worse(
    smallest_checkpoint: Checkpoint, tmp_path: Path, name: ComponentName
) -> None:
    options = ExportOptions(attention="original", components=(name,))
    ours = load_program(export_bundle(smallest_checkpoint, tmp_path / "bundle", options).package(name))
    usual_package(smallest_checkpoint, name, tmp_path / "usual.mlpackage")
    usual = load_program(tmp_path / "usual.mlpackage")
    found, expected = kinds(ours), kinds(usual)
    for kind in COMMON:
        assert found[kind] == expected[kind], kind
    assert {kind for kind in expected if kind not in found} <= ONLY_THEIRS
    assert sum(found.values()) < sum(expected.values())
    torch.manual_seed(0)
    inputs = {
        item.name: torch.randint(0, 500, item.shape) if item.dtype == "int32" else torch.randn(item.shape).half()
        for item in component_specs(smallest_checkpoint)[name].inputs(Setting(smallest_checkpoint, (8, 8), 2))
    }
    with torch.no_grad():
        wide = [value.float() if value.is_floating_point() else value for value in inputs.values()]
        reference = smallest_checkpoint.load(name)(*wide).numpy()
    signal = [psnr(reference, next(iter(Evaluator(program, "fp16")(inputs).values()))) for program in (ours, usual)]
    assert signal[0] > signal[1] - 1, f"{signal[0]:.1f} dB against {signal[1]:.1f} dB the usual way"
