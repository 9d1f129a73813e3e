"""Opening runtimes by name."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentRecord
from sfmobile.errors import UnavailableError, UsageError
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.runtime.opening import choose_runtime, open_runtime


def with_format(bundle: Bundle, kind: str) -> Bundle:
    """The bundle with every component's record claiming another format."""
    records: dict[Any, ComponentRecord] = {
        name: record.model_copy(update={"format": kind}) for name, record in bundle.manifest.components.items()
    }
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"components": records}))


@pytest.mark.parametrize(("system", "kind"), [("Darwin", "coreml"), ("Linux", "mil"), ("Windows", "mil")])
def test_auto_is_coreml_on_macos_and_mil_elsewhere(
    runtime_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, system: str, kind: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    assert choose_runtime("auto", runtime_bundle) == kind


def test_auto_is_onnx_for_onnx_files(runtime_bundle: Bundle) -> None:
    assert choose_runtime("auto", with_format(runtime_bundle, "onnx")) == "onnx"


def test_runtimes_name_themselves_with_their_precision(runtime_bundle: Bundle) -> None:
    runtime = open_runtime("mil", runtime_bundle, precision="fp16")
    assert isinstance(runtime, MilRuntime)
    assert runtime.describe().startswith("mil fp16 (torch ")


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("tflite", {}, "Runtime 'tflite' is unknown; expected one of auto, coreml, mil, torch, onnx"),
        ("mil", {"precision": "bf16"}, "Precision 'bf16' is unknown"),
        ("torch", {"precision": "fp16"}, "--precision fp16 is an evaluation of the mil runtime, not of torch"),
        ("mil", {"compute_unit": "ALL"}, "--compute-unit is for the coreml runtime, not for mil"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    runtime_bundle: Bundle, kind: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        open_runtime(kind, runtime_bundle, **options)


def test_coreml_off_macos_says_what_to_use_instead(runtime_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(UnavailableError, match="Core ML needs macOS and this is Linux; use --runtime mil") as failure:
        open_runtime("coreml", runtime_bundle)
    assert failure.value.exit_code == 3


def test_the_mil_runtime_refuses_onnx_files(runtime_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="is an ONNX file, which the mil runtime can't execute; use --runtime onnx"):
        open_runtime("mil", with_format(runtime_bundle, "onnx")).load("unet")
