"""Which phone `make ios-test` means: found in what devicectl lists, by model, name or UDID."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "ios_harness/find_device.py"


def device(
    udid: str, name: str, model: str = "iPhone 14 Pro", product: str = "iPhone15,2", **other: Any
) -> dict[str, Any]:
    """An entry as devicectl writes it, reduced to what is read."""
    return {
        "identifier": f"CORE-{udid}",
        "hardwareProperties": {
            "udid": udid,
            "marketingName": model,
            "productType": product,
            "platform": "iOS",
            "reality": "physical",
            **other.get("hardware", {}),
        },
        "deviceProperties": {"name": name, "osVersionNumber": "18.1"},
        "connectionProperties": {"pairingState": "paired", "transportType": "wired", **other.get("connection", {})},
    }


PHONE = device("00008120-000A", "Anna's phone")
TABLET = device("00008103-000B", "iPad", "iPad Pro", "iPad13,4")
AWAY = device("00008110-000C", "Old phone", connection={"transportType": None, "tunnelState": "unavailable"})
UNPAIRED = device("00008120-000D", "Stranger", connection={"pairingState": "unpaired"})
WATCH = device("00008310-000E", "Watch", hardware={"platform": "watchOS"})


def find(tmp_path: Path, wanted: str, devices: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    listing = tmp_path / "listing.json"
    listing.write_text(json.dumps({"info": {"outcome": "success"}, "result": {"devices": devices}}))
    tool = tmp_path / "bin/xcrun"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(
        f'#!/bin/sh\n[ "$1 $2 $3 $4" = "devicectl list devices --json-output" ] || exit 64\ncp "{listing}" "$5"\n'
    )
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), wanted], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("wanted", ["iPhone 14 Pro", "iphone 14 pro", "iPhone15,2", "Anna's phone", "00008120-000A"])
def test_a_phone_is_found_by_what_it_is_as_well_as_by_its_name(tmp_path: Path, wanted: str) -> None:
    done = find(tmp_path, wanted, [TABLET, PHONE, AWAY, UNPAIRED, WATCH])
    assert (done.returncode, done.stdout) == (0, "id=00008120-000A\n"), done.stderr


def test_a_udid_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find(tmp_path, "id=00008120-000Z", []).stdout == "id=00008120-000Z\n"


def test_what_is_connected_is_listed_when_nothing_fits(tmp_path: Path) -> None:
    done = find(tmp_path, "iPhone 15 Pro", [TABLET, PHONE, AWAY, UNPAIRED, WATCH])
    assert done.returncode == 3
    assert done.stdout == ""
    assert "iPhone 14 Pro 'Anna's phone' (iPhone15,2, iOS 18.1): id=00008120-000A" in done.stderr
    assert "id=00008103-000B" in done.stderr
    for absent in ("000C", "000D", "000E"):
        assert absent not in done.stderr
    assert "Developer Mode" in find(tmp_path, "iPhone 15 Pro", [AWAY]).stderr


def test_two_phones_of_one_model_are_not_guessed_between(tmp_path: Path) -> None:
    done = find(tmp_path, "iPhone 14 Pro", [PHONE, device("00008120-000F", "Ben's phone"), TABLET])
    assert done.returncode == 3
    assert "several are" in done.stderr
    assert "id=00008120-000F" in done.stderr
    assert "iPad" not in done.stderr


def test_a_mac_without_devicectl_gets_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "iPhone 14 Pro"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "give DEVICE=id=UDID" in done.stderr
    assert "Traceback" not in done.stderr
