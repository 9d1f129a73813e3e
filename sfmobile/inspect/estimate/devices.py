"""Devices as data: which chip, how fast its Neural Engine is said and was measured to be, and where that comes from."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sfmobile.errors import UsageError
from sfmobile.files import StrictModel, read_model

DEVICES_FILE = Path(__file__).with_name("devices.json")
NEAREST = 4


class Chip(StrictModel):
    """A chip. fp16_tops: advertised, TFLOP/s in half precision; null where the rate is `factor` times `like`'s.

    memory_gbps: what the Neural Engine shares with the rest of the chip, GB/s. basis: what `like` and `factor` rest on.
    """

    fp16_tops: float | None = Field(default=None, gt=0)
    memory_gbps: float = Field(gt=0)
    sources: tuple[str, ...] = Field(min_length=1)
    like: str | None = None
    factor: float = 1.0
    basis: str = ""
    note: str = ""


class Device(StrictModel):
    """A device. models: identifiers it reports itself as ("iPhone15,2"), or its processor's name on a Mac."""

    id: str
    name: str
    chip: str
    models: tuple[str, ...]
    memory_gb: float | None


class PublishedPoint(StrictModel):
    """A published latency of one call. `calibrates` is false where the graph behind the figure isn't known."""

    device: str
    network: str
    weight_bits: float
    milliseconds: float = Field(gt=0)
    source: str
    calibrates: bool = True
    note: str = ""


class DeviceTable(StrictModel):
    """All devices, chips and published latencies; `sources` says where each comes from."""

    version: Literal[1]
    sources: dict[str, str]
    chips: dict[str, Chip]
    devices: tuple[Device, ...]
    published: tuple[PublishedPoint, ...]

    @model_validator(mode="after")
    def _refers_to_itself(self) -> Self:
        for name, chip in self.chips.items():
            if (chip.fp16_tops is None) == (chip.like is None):
                raise ValueError(f"chip {name} needs either fp16_tops or like")
            if chip.like is not None and chip.like not in self.chips:
                raise ValueError(f"chip {name} is like {chip.like}, which is no chip")
        for device in self.devices:
            if device.chip not in self.chips:
                raise ValueError(f"device {device.id} has the chip {device.chip}, which is unknown")
        return self

    def find(self, name: str) -> Device:
        """The device of that id, name or identifier. Raises `UsageError` that lists the nearest."""
        wanted = _plain(name)
        for device in self.devices:
            if wanted in {_plain(known) for known in (device.id, device.name, *device.models)}:
                return device
        known = {_plain(device.id): device.id for device in self.devices}
        nearest = difflib.get_close_matches(wanted, known, n=NEAREST, cutoff=0.0)
        raise UsageError(
            f"Device '{name}' isn't in the device table; the nearest are {', '.join(known[one] for one in nearest)}."
        )

    def of_machine(self, model: str | None, processor: str) -> Device | None:
        """The device that a report's machine is, or None. Macs are told by their processor."""
        for device in self.devices:
            if model in device.models or processor in device.models:
                return device
        return None

    def base_chip(self, name: str) -> tuple[str, float]:
        """The chip whose rate `name` has, and the factor between them."""
        factor = 1.0
        while (like := self.chips[name].like) is not None:
            factor *= self.chips[name].factor
            name = like
        return name, factor


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


@cache
def device_table() -> DeviceTable:
    """The table this version ships."""
    return read_model(DEVICES_FILE, DeviceTable, "the device table of sfmobile", "install sfmobile again")
