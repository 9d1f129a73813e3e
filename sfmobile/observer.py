"""Progress: what long work tells whoever wants to know. Everything that takes long takes an observer."""

from __future__ import annotations

from typing import Literal

Unit = Literal["pieces", "bytes"]


class Observer:
    """Told what is being done; this one ignores it all. Derive from it and override what is of interest.

    One piece of work runs at a time: `start` also ends the one before it.
    """

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        """`what` begins, e.g. "unet: palettizing"; `advance` will report `total` units of it, None: as many as come."""

    def advance(self, units: int = 1) -> None:
        """So many units of what was started are done."""

    def note(self, message: str) -> None:
        """Something worth reading beside the result: a caution, a part that is done."""
