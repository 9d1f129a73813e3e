"""Apple's runtime as a reference of the exported programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import FunctionRecord
from sfmobile.export.chunk import write_chunks
from sfmobile.export.multifunction import merge_packages
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.mil.ops.registry import OPS
from sfmobile.verify.recording import Call

pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")

from sfmobile.verify.coreai_reference import OPERATORS_GATE_DB, compare_coreai, operators_fault, why_not


def test_every_component_agrees_with_apples_operators(tiny_palettized_bundle: Bundle) -> None:
    found = compare_coreai(tiny_palettized_bundle)
    assert [one.name for one in found] == ["text_encoder", "unet", "decoder"]
    for one in found:
        assert one.passed and one.fault is None
        assert one.worst.agreement.closeness >= OPERATORS_GATE_DB


def test_the_first_call_of_the_trajectory_is_taken(tiny_bundle: Bundle) -> None:
    calls = [Call("decoder", f"prompt {n}", {"latents": np.full((1, 4, 8, 8), n, np.float32)}, {}) for n in range(2)]
    decoder = compare_coreai(tiny_bundle, calls)[-1]
    assert [sample.input for sample in decoder.samples] == ["prompt 0", "excitation 1"]


def with_unet(bundle: Bundle, root: Path, **changes: object) -> Bundle:
    """A bundle of one UNet whose package lies below `root`."""
    record = bundle.manifest.components["unet"].model_copy(update=changes)
    return Bundle(root, bundle.manifest.model_copy(update={"components": {"unet": record}}))


def test_a_unet_in_chunks_is_compared_whole(tiny_bundle: Bundle, tmp_path: Path) -> None:
    chunks = write_chunks(tiny_bundle.package("unet"), tmp_path / "UNet", 2)
    (unet,) = compare_coreai(with_unet(tiny_bundle, tmp_path, package="UNet", chunks=chunks))
    assert unet.passed and unet.name == "unet"


def test_every_function_of_a_package_is_compared(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tmp_path: Path
) -> None:
    two, one = (bundle.manifest.components["unet"] for bundle in (tiny_bundle, tiny_palettized_bundle))
    packages = {"main": tiny_bundle.package("unet"), "batch1": tiny_palettized_bundle.package("unet")}
    merge_packages(packages, tmp_path / two.package)
    other = FunctionRecord(function="batch1", inputs=one.inputs, outputs=one.outputs)
    found = compare_coreai(with_unet(tiny_bundle, tmp_path, functions=(other,)))
    assert [part.name for part in found] == ["unet (main)", "unet (batch1)"]
    assert all(part.passed for part in found)


def test_an_operator_of_ours_that_is_wrong_is_found_and_named(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OPS["upsample_nearest_neighbor"]

    def mirrored(x: torch.Tensor, **scales: float) -> torch.Tensor:
        return right.function(x, **scales).flip(3)

    monkeypatch.setitem(OPS, right.kind, replace(right, function=mirrored))
    decoder = compare_coreai(tiny_bundle)[-1]
    assert not decoder.passed
    assert decoder.fault is not None and decoder.fault.op == right.kind
    assert "Apple's runtime" in str(decoder.fault)


def test_nan_is_named_by_its_operation(tiny_bundle: Bundle) -> None:
    program = load_program(tiny_bundle.package("decoder"))
    fault = operators_fault(program, {"latents": np.full((1, 4, 8, 8), np.nan, np.float32)})
    assert fault is not None and fault.position == 0
    assert "NaN" in str(fault)


def test_why_it_is_no_reference_is_said(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(tiny_bundle) is None
    record = tiny_bundle.manifest.components["decoder"].model_copy(update={"format": "onnx"})
    manifest = tiny_bundle.manifest.model_copy(update={"components": {"decoder": record}})
    assert "ML Programs" in str(why_not(Bundle(tiny_bundle.root, manifest)))
