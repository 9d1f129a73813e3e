"""Small ML Programs for tests, written with coremltools' MIL builder and saved as real packages."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import types
from coremltools.proto import Model_pb2

from sfmobile.mlpackage.program import Program, load_program
from sfmobile.runtime.mil.evaluate import Evaluator

TARGETS = {"ios16": ct.target.iOS16, "ios17": ct.target.iOS17, "ios18": ct.target.iOS18}

_TYPES = {
    np.dtype(np.float16): types.fp16,
    np.dtype(np.float32): types.fp32,
    np.dtype(np.int32): types.int32,
    np.dtype(np.bool_): types.bool,
}


def build_program(body: Callable[..., Any], inputs: Mapping[str, np.ndarray], target: str = "ios16") -> Any:
    """A MIL program whose inputs have the shapes and dtypes of `inputs`. `body` takes the variables in order."""
    specs = []
    for value in inputs.values():
        # A boolean can't be an input of an ML Program: it comes in as int32 and is cast.
        data_type = types.int32 if value.dtype == np.bool_ else _TYPES[value.dtype]
        specs.append(mb.TensorSpec(shape=value.shape, dtype=data_type))

    def main(*variables: Any) -> Any:
        cast = [
            mb.cast(x=variable, dtype="bool") if value.dtype == np.bool_ else variable
            for variable, value in zip(variables, inputs.values(), strict=True)
        ]
        return body(*cast)

    # The builder reads argument names off the function's signature.
    names = ", ".join(inputs)
    named = eval(f"lambda {names}: main({names})", {"main": main})
    return mb.program(input_specs=specs, opset_version=TARGETS[target])(named)


def save_program(program: Any, folder: Path, target: str = "ios16", name: str = "program") -> Path:
    """Write a MIL program as coremltools' own exporter does, without graph passes and without a compiler's checks."""
    path = folder / f"{name}.mlpackage"
    weights = path / "Data" / "com.apple.CoreML" / "weights"
    weights.mkdir(parents=True)
    version = TARGETS[target].value
    model = Model_pb2.Model(specificationVersion=version)
    model.mlProgram.CopyFrom(MILProtoExporter(program, str(weights), version).export())
    (weights.parent / "model.mlmodel").write_bytes(model.SerializeToString())
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {"model": {"path": "com.apple.CoreML/model.mlmodel"}},
        "rootModelIdentifier": "model",
    }
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def make_program(body: Callable[..., Any], inputs: Mapping[str, np.ndarray], target: str = "ios16") -> Program:
    """Build, save and load: the `Program` our runtime sees. Its files may be gone afterwards: they stay mapped."""
    with tempfile.TemporaryDirectory() as folder:
        program = load_program(save_program(build_program(body, inputs, target), Path(folder), target))
        for constant in program.constants.values():
            constant.load()
    return program


def evaluate(
    body: Callable[..., Any],
    *values: np.ndarray,
    target: str = "ios16",
    precision: str = "fp32",
) -> list[np.ndarray]:
    """Outputs of the one-function program `body` for the given inputs, executed from its package.

    Executed three times: planned and op by op, which must agree to the bit, and with weights and images laid out for
    speed, which must agree up to float32 sums in another order.
    """
    inputs = {f"in{index}": value for index, value in enumerate(values)}
    program = make_program(body, inputs, target)
    fed = {name: value.astype(np.int32) if value.dtype == np.bool_ else value for name, value in inputs.items()}
    evaluator = Evaluator(program, precision, fuse=False)  # type: ignore[arg-type]
    outputs = evaluator(fed)
    fused = Evaluator(program, precision)(fed)  # type: ignore[arg-type]
    traced = evaluator.trace(fed, lambda result: None)
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, traced[name])
        np.testing.assert_allclose(fused[name], value, rtol=1e-3 if precision == "fp16" else 1e-4, atol=1e-4)
    return list(outputs.values())


def assert_matches(
    body: Callable[..., Any],
    oracle: torch.Tensor | np.ndarray | Sequence[torch.Tensor],
    *values: np.ndarray,
    target: str = "ios16",
    tolerance: float = 1e-5,
) -> None:
    """The program's outputs equal the oracle's, in shape, kind of type and value."""
    found = evaluate(body, *values, target=target)
    expected = list(oracle) if isinstance(oracle, (list, tuple)) else [oracle]
    assert len(found) == len(expected)
    for value, wanted in zip(found, expected, strict=True):
        wanted = np.asarray(wanted)
        assert value.shape == wanted.shape
        assert value.dtype.kind == ("i" if wanted.dtype.kind == "u" else wanted.dtype.kind)
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance)


def psnr(value: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the reference's largest magnitude."""
    error = float(np.mean((value.astype(np.float64) - reference) ** 2))
    peak = float(np.abs(reference).max())
    return float("inf") if error == 0 else 10 * float(np.log10(peak**2 / error))
