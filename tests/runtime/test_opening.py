"""Opening runtimes by name."""

from __future__ import annotations

import pickle
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from sfmobile.bundle.directory import Bundle, BundleError
from sfmobile.bundle.manifest import ComponentRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.runtime.opening import (
    RuntimeRequest,
    choose_runtime,
    has_source,
    open_bundle,
    open_runtime,
    open_source,
)
from tests.log import Log


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
        (
            "torch",
            {"precision": "fp16"},
            "fp16 is an evaluation of the runtimes mil and coreai, not of torch",
        ),
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


def test_a_path_is_checked_and_an_opened_bundle_is_taken_as_it_is(runtime_bundle: Bundle, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(runtime_bundle.root, tmp_path / "copied"))
    log = Log()
    opened = open_bundle(copied, observer=log)
    (total,) = log.totals.values()
    assert opened.root == copied and log.done == {"Checking copied": total} and (total or 0) > 1000
    next(copied.rglob("vocab.json")).write_text("{}")
    with pytest.raises(BundleError, match="truncated"):
        open_bundle(str(copied))
    assert open_bundle(opened).manifest == opened.manifest


def test_shapes_are_those_it_was_exported_for(runtime_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no UNet for latents 4x4"):
        open_bundle(runtime_bundle, latent_size=(4, 4))


def test_the_source_is_the_bundles_own_wherever_it_is(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tiny_snapfusion_checkpoint: Checkpoint
) -> None:
    assert has_source(tiny_bundle, None) and open_source(tiny_bundle).root == tiny_checkpoint.root
    assert open_source(tiny_bundle, tiny_checkpoint) is tiny_checkpoint
    assert open_source(tiny_bundle, str(tiny_checkpoint.root)).root == tiny_checkpoint.root
    with pytest.raises(ArtifactError, match="is not the checkpoint that"):
        open_source(tiny_bundle, tiny_snapfusion_checkpoint)
    manifest = tiny_bundle.manifest
    moved = Bundle(
        tiny_bundle.root,
        manifest.model_copy(update={"source": manifest.source.model_copy(update={"id": "someone/model"})}),
    )
    assert not has_source(moved, None) and has_source(moved, tiny_checkpoint.root)
    with pytest.raises(UsageError, match=r"'someone/model' .* isn't here; name its directory with --source"):
        open_source(moved)


def test_a_request_survives_the_way_to_another_process(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    request = RuntimeRequest.of(tiny_bundle, "torch", source=tiny_checkpoint)
    assert request.kind == "torch" and request.source == tiny_checkpoint.source
    bundle, runtime = pickle.loads(pickle.dumps(request)).open()
    assert bundle.manifest == tiny_bundle.manifest and runtime.describe().startswith("torch fp32")
    mil = RuntimeRequest.of(tiny_bundle, "mil", "fp16")
    assert (mil.precision, mil.compute_unit, mil.source) == ("fp16", None, None)
    with pytest.raises(UsageError, match="--compute-unit is for the coreml runtime, not for mil"):
        RuntimeRequest.of(tiny_bundle, "mil", compute_unit="ALL")


def test_core_ml_has_a_unit_and_no_evaluation(tiny_bundle: Bundle) -> None:
    request = RuntimeRequest.of(tiny_bundle, "coreml")
    assert (request.kind, request.precision, request.compute_unit) == ("coreml", None, "ALL")
