"""Finds a connected iPhone for `xcodebuild -destination`: by its model, its name, or as id=UDID.

    python ios_harness/find_device.py "iPhone 14 Pro"    prints id=00008120-…

`-destination name=` goes by what the owner called the phone. The model is in devicectl's JSON (Xcode 15 or later), and
so is the UDID, which xcodebuild takes; devicectl's own identifier is another one. Exit codes: 2 usage, 3 no such phone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Device:
    """A phone that this Mac is paired with and can reach."""

    udid: str
    name: str
    model: str
    product: str
    system: str

    def is_meant_by(self, wanted: str) -> bool:
        """Whether `wanted` is its model ("iPhone 14 Pro", "iPhone15,2"), its owner's name for it, or its UDID."""
        return wanted.casefold() in {one.casefold() for one in (self.model, self.product, self.name, self.udid)}

    def __str__(self) -> str:
        return f"{self.model} '{self.name}' ({self.product}, iOS {self.system}): id={self.udid}"


def devices_of(listing: dict[str, Any]) -> list[Device]:
    """The phones and tablets in what `devicectl list devices` wrote. One that was paired once and isn't here now is
    listed too, without a transport."""
    found = []
    for entry in listing.get("result", {}).get("devices", []):
        hardware = entry.get("hardwareProperties", {})
        connection = entry.get("connectionProperties", {})
        properties = entry.get("deviceProperties", {})
        if hardware.get("platform") != "iOS" or hardware.get("reality", "physical") != "physical":
            continue
        if connection.get("pairingState") != "paired" or not connection.get("transportType"):
            continue
        if not hardware.get("udid"):
            continue
        found.append(
            Device(
                udid=hardware["udid"],
                name=properties.get("name", "unnamed"),
                model=hardware.get("marketingName", "unknown model"),
                product=hardware.get("productType", "unknown"),
                system=properties.get("osVersionNumber", "unknown"),
            )
        )
    return found


def connected() -> list[Device]:
    """What devicectl sees now."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(listing)]
        try:
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=60)
            return devices_of(json.loads(listing.read_text(encoding="utf-8")))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            sys.exit(f"error: devicectl can't list devices ({error}); give DEVICE=id=UDID, as Xcode shows it.")


def main(arguments: list[str]) -> int:
    """Print the destination of the one phone that is meant, or what there is to choose from."""
    if len(arguments) != 1 or not arguments[0]:
        print('usage: find_device.py "iPhone 14 Pro" | id=UDID', file=sys.stderr)
        return 2
    wanted = arguments[0]
    if wanted.startswith("id="):
        print(wanted)
        return 0
    devices = connected()
    meant = [device for device in devices if device.is_meant_by(wanted)]
    if len(meant) == 1:
        print(f"id={meant[0].udid}")
        return 0
    found = "several are" if meant else "none is"
    print(f"error: expected one connected '{wanted}', {found}; choose by id from:", file=sys.stderr)
    for device in meant or devices:
        print(f"  {device}", file=sys.stderr)
    if not devices:
        print("  (nothing: plug the phone in, unlock it, trust this Mac, turn Developer Mode on)", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
