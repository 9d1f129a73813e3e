"""The built-in model's UNet, trained weights and all, against our network and on Apple's operators."""

from __future__ import annotations

from pathlib import Path

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.verify.exactness import EXACT_GATE_DB
from tests.tiny import REPOSITORY

pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")

from sfmobile.verify.coreai_reference import OPERATORS_GATE_DB


@pytest.fixture(scope="module")
def built_in() -> Checkpoint:
    return Checkpoint.open(REPOSITORY / "models" / "glyph")


@pytest.fixture(scope="module")
def bundle(built_in: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root: Path = tmp_path_factory.mktemp("built-in") / "bundle"
    return export_bundle(built_in, root, ExportOptions(bits=6, guidance_batch=1, components=("unet",)))


def test_the_built_in_unet_is_exact_and_apples_operators_agree(bundle: Bundle, built_in: Checkpoint) -> None:
    found = sfmobile.verify(
        bundle, source=built_in, quick=True, steps=1, precision="fp32", reference=("nets", "coreai")
    )
    assert found.passed and found.exact is not None
    worst = found.exact.components["unet"].worst
    assert worst is not None and worst.closeness > EXACT_GATE_DB
    (apples,) = found.read
    assert apples.gate_db == OPERATORS_GATE_DB and [stage.input for stage in apples.stages] == ["unet"]
    assert apples.passed and apples.first_divergence is None
