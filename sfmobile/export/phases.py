"""The phases of an export, and who is told of them."""

from __future__ import annotations

from typing import Literal

from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.manifest import ComponentRecord

Phase = Literal[
    "hash", "load", "trace", "convert", "palettize", "write", "cut", "merge", "bridge", "check", "checksum", "golden"
]


class ExportObserver:
    """Told what the exporter does; the base class ignores it all."""

    def phase(self, component: ComponentName | None, phase: Phase, total: int | None = None) -> None:
        """A phase begins; `total` units of it will be reported by `advance`, or None if it can't be told."""

    def advance(self, units: int) -> None:
        """So many units of the current phase are done."""

    def finished(self, component: ComponentName, record: ComponentRecord, seconds: float, reused: bool) -> None:
        """A component is complete, built or reused."""
