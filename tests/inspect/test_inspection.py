"""`sfmobile.inspect`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError, UsageError


def test_inspect_finds_in_python_what_the_command_prints(tiny_bundle: Bundle) -> None:
    found = sfmobile.inspect(tiny_bundle, component="unet", device="iphone-14-pro")
    assert list(found.packages) == ["unet"] == list(found.blocks) and found.time is not None
    assert "unet: blocks" in str(found) and "Time on iPhone 14 Pro" in str(found)
    assert found.record()["unet"]["blocks"][0]["block"] == found.blocks["unet"][0].block
    with pytest.raises(UsageError, match="need --device"):
        sfmobile.inspect(tiny_bundle, compute_plan="plan.json")


def test_altered_weights_may_be_looked_at_but_are_not_executed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    weights = next((root / tiny_bundle.manifest.components["unet"].package).rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert list(sfmobile.inspect(root, component="unet").packages) == ["unet"]
    with pytest.raises(ArtifactError, match=r"weight\.bin' has changed: expected SHA-256"):
        sfmobile.inspect(root, component="unet", activations=1)
