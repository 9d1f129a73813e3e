"""`sfmobile.inspect`."""

from __future__ import annotations

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError


def test_inspect_finds_in_python_what_the_command_prints(tiny_bundle: Bundle) -> None:
    found = sfmobile.inspect(tiny_bundle, component="unet", device="iphone-14-pro")
    assert list(found.packages) == ["unet"] == list(found.blocks) and found.time is not None
    assert "unet: blocks" in str(found) and "Time on iPhone 14 Pro" in str(found)
    assert found.record()["unet"]["blocks"][0]["block"] == found.blocks["unet"][0].block
    with pytest.raises(UsageError, match="need --device"):
        sfmobile.inspect(tiny_bundle, compute_plan="plan.json")
