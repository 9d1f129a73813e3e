"""Charts as geometry: what stands where in an SVG that scales with the page. The templates draw it.

Every length is in units of the picture's view box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sfmobile.inspect.operations.blocks import block_kind

# Narrow, so that text stays legible on a phone; the page limits how far a wide screen enlarges it.
WIDTH = 480
# A limit further away than this many times the longest bar is told, not drawn: it would leave nothing of the bars.
FARTHEST_LIMIT = 3.0
ROW = 50
TICKS = 5
# Distances between two ticks, in the lines' unit; the last is for lines that part by more than anything measured.
NICE = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e6)
COLOURS = 4
# Room above the highest and below the lowest line, in the lines' unit.
MARGIN = 3.0
KIND_CLASSES = {
    "resnet": "resnet",
    "attention": "attention",
    "layer": "layer",
    "downsample": "resampling",
    "upsample": "resampling",
}


@dataclass(frozen=True)
class Bar:
    """A bar of consecutive parts: (name, length)."""

    label: str
    parts: tuple[tuple[str, float], ...]

    @property
    def length(self) -> float:
        """The sum of the parts."""
        return sum(length for _, length in self.parts)


@dataclass(frozen=True)
class DrawnPart:
    """A part of a bar in its place. kind: the class that colours it, by the kind of block it names."""

    name: str
    length: float
    kind: str
    x: float
    width: float


@dataclass(frozen=True)
class DrawnBar:
    """A bar in its place; its label stands above `top`."""

    label: str
    length: float
    top: int
    parts: tuple[DrawnPart, ...]


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars against a limit. limit_x: where it is drawn; None where it is too far away to be."""

    bars: tuple[DrawnBar, ...]
    limit_x: float | None
    limit_by_longest: float
    height: int
    width: int = WIDTH
    left: int = 4


@dataclass(frozen=True)
class Tick:
    """A value of the vertical axis in its place."""

    value: float
    y: float


@dataclass(frozen=True)
class DrawnLine:
    """A line through points (x, y); its label stands behind the last. colour: 0 to `COLOURS` - 1."""

    label: str
    colour: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LineChart:
    """Lines over numbered steps. steps: where each step stands on the horizontal axis."""

    ticks: tuple[Tick, ...]
    steps: tuple[float, ...]
    lines: tuple[DrawnLine, ...]
    width: int = WIDTH
    left: int = 52
    right: int = WIDTH - 64
    top: int = 10
    bottom: int = 170
    height: int = 206


def bar_chart(bars: Sequence[Bar], limit: float) -> BarChart:
    """`bars` against `limit`, which must be positive, in the bars' unit."""
    longest = max((bar.length for bar in bars), default=0.0) or limit
    near = limit <= FARTHEST_LIMIT * longest
    left = BarChart.left
    scale = (WIDTH - 2 * left) / (max(longest, limit if near else 0.0) * 1.02)
    drawn = []
    for index, bar in enumerate(bars):
        parts = []
        x = float(left)
        for name, length in bar.parts:
            kind = KIND_CLASSES.get(block_kind(name), "other")
            # A part too short to see still shows its name to a pointer.
            parts.append(DrawnPart(name, length, kind, x, max(length * scale, 0.1)))
            x += length * scale
        drawn.append(DrawnBar(bar.label, bar.length, index * ROW + 20, tuple(parts)))
    return BarChart(
        bars=tuple(drawn),
        limit_x=left + limit * scale if near else None,
        limit_by_longest=limit / longest,
        height=ROW * len(bars) + 26,
    )


def line_chart(lines: Sequence[tuple[str, Sequence[float | None]]]) -> LineChart | None:
    """One line a label over the steps; a step without a finite value leaves a gap. None without any finite value."""
    finite = [value for _, values in lines for value in values if value is not None]
    if not finite:
        return None
    low, high = min(finite) - MARGIN, max(finite) + MARGIN
    count = max(len(values) for _, values in lines)
    left, right, top, bottom = LineChart.left, LineChart.right, LineChart.top, LineChart.bottom

    def x(index: int) -> float:
        return left + (right - left) * (index / max(count - 1, 1))

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    apart = next(step for step in NICE if (high - low) / step <= TICKS)
    first, last = math.ceil(low / apart), math.floor(high / apart)
    values_of_ticks = [apart * number for number in range(first, last + 1)]
    placed = [
        (label, tuple((x(index), y(value)) for index, value in enumerate(values) if value is not None))
        for label, values in lines
    ]
    return LineChart(
        ticks=tuple(Tick(value, y(value)) for value in values_of_ticks),
        steps=tuple(x(index) for index in range(count)),
        lines=tuple(
            DrawnLine(label, number % COLOURS, points) for number, (label, points) in enumerate(placed) if points
        ),
    )
