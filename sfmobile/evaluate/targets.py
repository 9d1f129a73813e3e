"""What an evaluation was asked to reach, judged by its own figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sfmobile.evaluate.report import EvaluationRecord


@dataclass(frozen=True)
class QualityTarget:
    """One line: a figure of a measurement, or of a part of the record's `extra`, within bounds.

    claim: what it stands for, in words; of: name of the measurement or part; than: a second one that the figure is
    divided by (`ratio`) or that is taken from it; at_most, at_least: the bounds, either or both.
    """

    claim: str
    figure: str
    of: str
    than: str | None = None
    ratio: bool = False
    at_most: float | None = None
    at_least: float | None = None

    def value(self, record: EvaluationRecord) -> float | None:
        """The compared value, None where a part of it wasn't measured."""
        own, other = _figure(record, self.of, self.figure), _figure(record, self.than, self.figure)
        if own is None or (self.than is not None and other is None):
            return None
        if other is None:
            return own
        return own / other if self.ratio else own - other

    def verdict(self, record: EvaluationRecord) -> str:
        """One of "reached", "missed" and "not measured"."""
        value = self.value(record)
        if value is None:
            return "not measured"
        above = self.at_least is None or value >= self.at_least
        below = self.at_most is None or value <= self.at_most
        return "reached" if above and below else "missed"

    @property
    def bounds(self) -> str:
        """As a person writes them: "≥ 0.5"."""
        parts = [("≥", self.at_least), ("≤", self.at_most)]
        return ", ".join(f"{sign} {bound:g}" for sign, bound in parts if bound is not None)

    @property
    def compared(self) -> str:
        """The figure and whose it is."""
        if self.than is None:
            return f"{self.figure}: {self.of}"
        return f"{self.figure}: {self.of} {'/' if self.ratio else '−'} {self.than}"


def _figure(record: EvaluationRecord, name: str | None, figure: str) -> float | None:
    if name is None:
        return None
    found = record.find(name)
    return (record.extra.get(name, {}) if found is None else found.figures).get(figure)


def target_table(targets: Sequence[QualityTarget], record: EvaluationRecord) -> str:
    """A Markdown section with a row a target; empty without targets."""
    if not targets:
        return ""
    lines = ["", "## Targets", "", "| target | compared | bound | measured | |", "|---|---|---:|---:|---|"]
    for target in targets:
        value = target.value(record)
        shown = "–" if value is None else f"{value:.3f}"
        lines.append(f"| {target.claim} | {target.compared} | {target.bounds} | {shown} | {target.verdict(record)} |")
    return "\n".join(lines) + "\n"
