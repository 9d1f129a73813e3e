"""Real measurements of a device: they replace estimates of the same bundle, and scale those of others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, field_validator

from sfmobile.bench.records import now
from sfmobile.bench.report import BenchReport, PlacementRecord, read_report
from sfmobile.errors import UsageError
from sfmobile.files import StrictModel, read_model, write_json
from sfmobile.inspect.estimate.devices import Device, device_table

if TYPE_CHECKING:
    from sfmobile.bench.records import BundleReference

# A latency on these can stand for the Neural Engine's.
NEURAL_ENGINE_UNITS = ("ALL", "CPU_AND_NE")
FACTORS_VERSION: Final = 1


class MeasuredTime(StrictModel):
    """A measured median, and what measured it."""

    milliseconds: float = Field(gt=0)
    source: str
    placement: PlacementRecord | None = None


class DeviceFactors(StrictModel):
    """How much longer a device takes than estimated: one factor per component, from measured bundles."""

    kind: Literal["device_factors"] = "device_factors"
    version: Literal[1] = FACTORS_VERSION
    created_at: datetime
    device: str
    factors: dict[str, float] = Field(min_length=1)
    sources: tuple[str, ...]

    @field_validator("kind", mode="before")
    @classmethod
    def _older_word(cls, kind: object) -> object:
        return "device_factors" if kind == "calibration" else kind

    def factor(self, component: str) -> float:
        """The factor of a component; of one that wasn't measured, the geometric mean of those that were."""
        for name, factor in self.factors.items():
            if name == component:
                return factor
        return math.exp(sum(map(math.log, self.factors.values())) / len(self.factors))

    def write(self, path: Path) -> None:
        """Write the factors as JSON, whole or not at all. Raises as `files.atomic_write` does."""
        write_json(path, self)

    @classmethod
    def read(cls, path: Path, device: Device) -> DeviceFactors:
        """Read the factors of `device`. Raises `ArtifactError`, or `UsageError` if it is of another device."""
        mend = (
            "write one with `sfmobile inspect BUNDLE --device DEVICE --measured bench.json --save-device-factors FILE`"
        )
        found = read_model(path, cls, "a file of device factors", mend, version=FACTORS_VERSION)
        if found.device != device.id:
            raise UsageError(
                f"'{path}' holds factors of {found.device}, not {device.id}; measure on that device, or leave it out."
            )
        return found


def read_measured(paths: Sequence[Path], bundle: BundleReference, device: Device) -> dict[str, MeasuredTime]:
    """Median times per component from reports of `sfmobile bench`, of the iOS harness, or imported from an .xcresult.

    Raises `UsageError` for a report of another bundle, device or runtime, `ArtifactError` for one that can't be read.
    """
    measured: dict[str, MeasuredTime] = {}
    for path in paths:
        report = read_report(path, BenchReport)
        _check(path, report, bundle, device)
        label = f"{report.runtime.description}, {report.machine.model or report.machine.processor}, {report.machine.os}"
        for name, latency in report.components.items():
            if latency.median_ms > 0:
                measured[name] = MeasuredTime(milliseconds=latency.median_ms, source=label, placement=latency.placement)
    return measured


def _check(path: Path, report: BenchReport, bundle: BundleReference, device: Device) -> None:
    if report.bundle.manifest_sha256 != bundle.manifest_sha256:
        raise UsageError(
            f"'{path}' measured the bundle '{report.bundle.name}' (manifest {report.bundle.manifest_sha256[:12]}…), "
            f"not '{bundle.name}' (manifest {bundle.manifest_sha256[:12]}…); measure this one, or save the "
            "factors of that one and pass them with --device-factors."
        )
    machine = report.machine
    found = device_table().of_machine(machine.model, machine.processor)
    if report.runtime.kind != "coreml":
        raise UsageError(
            f"'{path}' was measured with {report.runtime.description} on {machine.processor}, which says nothing of "
            f"{device.name}; measure with Core ML on the device."
        )
    if found is None or found.chip != device.chip:
        raise UsageError(
            f"'{path}' was measured on {machine.model or machine.processor}, not on {device.name} "
            f"({', '.join(device.models)}); choose its device, or measure on this one."
        )
    if report.runtime.compute_unit not in NEURAL_ENGINE_UNITS:
        raise UsageError(
            f"'{path}' was measured on {report.runtime.compute_unit}; expected CPU_AND_NE or ALL, which use the "
            "Neural Engine."
        )


def device_factors(
    device: Device, measured: Mapping[str, MeasuredTime], estimated: Mapping[str, float]
) -> DeviceFactors:
    """Factors of measured over estimated milliseconds. Raises `UsageError` if no component has both."""
    both = [name for name in measured if name in estimated]
    if not both:
        raise UsageError("Device factors need at least one measured component; pass its report with --measured.")
    return DeviceFactors(
        created_at=now(),
        device=device.id,
        factors={name: measured[name].milliseconds / estimated[name] for name in both},
        sources=tuple(dict.fromkeys(measured[name].source for name in both)),
    )
