"""An observer that keeps what it is told."""

from __future__ import annotations

from sfmobile.observer import Observer, Unit


class Log(Observer):
    """What was done, and how much of it."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, int] = {}
        self.notes: list[str] = []

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        self.totals[what], self.done[what] = total, 0

    def advance(self, units: int = 1) -> None:
        self.done[list(self.done)[-1]] += units

    def note(self, message: str) -> None:
        self.notes.append(message)
