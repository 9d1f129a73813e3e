"""The coreml runtime against a recorded interface: `MLModel.__init__` and `predict` as coremltools 9 declares them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.runtime import coreml
from sfmobile.runtime.choices import COMPUTE_UNITS, ComputeUnit
from sfmobile.runtime.coreml import CoreMLRuntime
from sfmobile.runtime.opening import open_runtime
from tests.runtime.sample import sample_inputs


class RecordedModel:
    """Takes what `MLModel` takes, keeps it, and answers with the mil runtime's outputs."""

    made: list[tuple[str, dict[str, Any]]]

    def __init__(self, bundle: Bundle, name: str, lost: str | None = None) -> None:
        self.component = open_runtime("mil", bundle).load(name)  # type: ignore[arg-type]
        self.lost = lost
        self.calls: list[dict[str, np.ndarray]] = []

    def predict(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls.append(data)
        outputs = self.component.predict(data)
        # Core ML gives float16 outputs as float16 arrays.
        return {name: value.astype(np.float16) for name, value in outputs.items() if name != self.lost}


@pytest.mark.parametrize("unit", COMPUTE_UNITS)
def test_models_are_loaded_as_coremltools_declares(
    runtime_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, unit: ComputeUnit
) -> None:
    """`load_model` calls MLModel with arguments its real signature takes, and the unit by its real name."""
    signature = inspect.signature(ct.models.MLModel.__init__)
    assert "data" in inspect.signature(ct.models.MLModel.predict).parameters
    seen: list[dict[str, Any]] = []

    def construct(*arguments: Any, **options: Any) -> str:
        seen.append(signature.bind(None, *arguments, **options).arguments)
        return "model"

    monkeypatch.setattr(ct.models, "MLModel", construct)
    assert coreml.load_model(Path("UNet.mlpackage"), unit, "batch_2") == "model"  # type: ignore[comparison-overlap]
    assert seen[0]["model"] == "UNet.mlpackage"
    assert seen[0]["compute_units"] is ct.ComputeUnit[unit]
    assert seen[0]["function_name"] == "batch_2"


def test_predictions_pass_named_float32_arrays_and_come_back_as_float32(runtime_bundle: Bundle) -> None:
    made: list[tuple[Path, ComputeUnit, str | None]] = []
    model = RecordedModel(runtime_bundle, "unet")

    def loader(package: Path, unit: ComputeUnit, function: str | None) -> RecordedModel:
        made.append((package, unit, function))
        return model

    runtime = CoreMLRuntime(runtime_bundle, "CPU_AND_NE", loader=loader)
    assert runtime.describe() == "coreml CPU_AND_NE"
    inputs = sample_inputs("unet")
    with runtime.load("unet") as unet:
        outputs = unet.predict(inputs)
    assert made == [(runtime_bundle.package("unet"), "CPU_AND_NE", None)]
    assert {name: value.dtype for name, value in model.calls[0].items()} == dict.fromkeys(inputs, np.float32)
    assert outputs["model_output"].dtype == np.float32
    np.testing.assert_allclose(outputs["model_output"], model.component.predict(inputs)["model_output"], rtol=1e-3)


def test_a_missing_output_is_an_artifact_error(runtime_bundle: Bundle) -> None:
    model = RecordedModel(runtime_bundle, "decoder", lost="image")
    runtime = CoreMLRuntime(runtime_bundle, loader=lambda package, unit, function: model)
    with runtime.load("decoder") as decoder, pytest.raises(ArtifactError, match="gave no output 'image'"):
        decoder.predict(sample_inputs("decoder"))


def test_an_unknown_unit_is_refused(runtime_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="Compute unit 'NPU' is unknown; expected one of ALL, CPU_AND_NE"):
        CoreMLRuntime(runtime_bundle, "NPU")  # type: ignore[arg-type]
