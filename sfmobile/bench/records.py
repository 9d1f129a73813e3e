"""What every report says beside its figures: the machine, the runtime, the bundle, who wrote it and when."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from sfmobile.bundle.choices import Target
from sfmobile.bundle.manifest import Sha256
from sfmobile.files import StrictModel
from sfmobile.runtime.choices import ComputeUnit, Precision, RuntimeKind
from sfmobile.version import __version__

REPORT_VERSION: Final = 1

Bytes = Annotated[int, Field(ge=0)]
Decibels = Annotated[float, Field(allow_inf_nan=False)]


class MachineRecord(StrictModel):
    """What the figures were measured on, e.g. model "iPhone15,2", processor "Apple A16", os "iOS 18.1"."""

    model: str | None
    processor: str
    architecture: str
    cores: int = Field(ge=1)
    memory_bytes: Bytes
    os: str


class RuntimeRecord(StrictModel):
    """What executed the components. `description` is the runtime's own name for itself, shown beside its figures.

    precision: of the evaluation (mil, torch, onnx); Core ML runs what the package says. compute_unit: Core ML only.
    threads: of the runtime's own pool, null where it doesn't say.
    """

    # The key "engine" is older than the one word for it; the iOS harness writes it too.
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    kind: RuntimeKind = Field(validation_alias="engine", serialization_alias="engine")
    description: str
    precision: Precision | None = None
    compute_unit: ComputeUnit | None = None
    threads: int | None = Field(default=None, ge=1)

    @property
    def label(self) -> str:
        """E.g. "mil fp16" or "coreml CPU_AND_NE": short, for tables and for matching evaluations."""
        return " ".join(part for part in (self.kind, self.precision, self.compute_unit) if part)


class BundleReference(StrictModel):
    """Which bundle: its name and the checksum of its manifest, which holds those of all its files."""

    name: str
    manifest_sha256: Sha256
    source_id: str
    source_sha256: Sha256
    target: Target


class ProducerRecord(StrictModel):
    """What wrote the report, and the versions of the packages that matter to its figures."""

    name: Literal["sfmobile", "ios_harness"] = "sfmobile"
    version: str = __version__
    tools: dict[str, str] = Field(default_factory=dict)


def now() -> datetime:
    """The time of day for `created_at`, UTC, whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0)
