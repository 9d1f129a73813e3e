"""Charts as inline SVG: they scale with the page, print, and need nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sfmobile.inspect.operations.blocks import block_kind

# Narrow, so that text stays legible on a phone; the page limits how far a wide screen enlarges it.
WIDTH = 480
RIGHT = 64
# A limit further away than this many times the longest bar is told, not drawn: it would leave nothing of the bars.
FARTHEST_LIMIT = 3.0
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


def stacked_bars(bars: Sequence[Bar], limit: float, unit: str, limit_label: str) -> str:
    """Horizontal bars against a limit drawn as a line; parts are coloured by the kind of block they name."""
    longest = max((bar.length for bar in bars), default=0.0) or limit
    drawn = limit <= FARTHEST_LIMIT * longest
    left, row = 4, 50
    scale = (WIDTH - 2 * left) / (max(longest, limit if drawn else 0.0) * 1.02)
    height = row * len(bars) + 26
    shapes = []
    for index, bar in enumerate(bars):
        top = index * row + 20
        shapes.append(f'<text x="{left}" y="{top - 5}">{escape(bar.label)}: {_number(bar.length)} {unit}</text>')
        x = float(left)
        for name, length in bar.parts:
            width = length * scale
            kind = KIND_CLASSES.get(block_kind(name), "other")
            shapes.append(
                f'<rect class="{kind}" x="{x:.2f}" y="{top}" width="{max(width, 0.1):.2f}" height="22">'
                f"<title>{escape(name)}: {_number(length)} {unit}</title></rect>"
            )
            x += width
    if drawn:
        x = left + limit * scale
        shapes.append(f'<line class="limit" x1="{x:.1f}" y1="8" x2="{x:.1f}" y2="{height - 18}"/>')
        anchor = "end" if x > WIDTH / 2 else "start"
        shapes.append(f'<text x="{x:.1f}" y="{height - 4}" text-anchor="{anchor}">{escape(limit_label)}</text>')
    else:
        far = f"{limit_label}: {_number(limit / longest)} times the longest bar"
        shapes.append(f'<text x="{WIDTH - left}" y="{height - 4}" text-anchor="end">{escape(far)} →</text>')
    return _svg(height, shapes, "Time per component and block against the budget")


def step_lines(lines: Sequence[tuple[str, Sequence[float | None]]], unit: str) -> str:
    """One line a run over the steps; a step without a finite value leaves a gap."""
    finite = [value for _, values in lines for value in values if value is not None]
    if not finite:
        return ""
    low, high = min(finite) - 3, max(finite) + 3
    left, top, bottom, height = 36, 10, 170, 206
    steps = max(len(values) for _, values in lines)

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + (WIDTH - left - RIGHT) * (index / max(steps - 1, 1))
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    shapes = []
    for tick in range(5):
        value = low + (high - low) * tick / 4
        _, y = place(0, value)
        shapes.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        shapes.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    for index in range(steps):
        x, _ = place(index, low)
        shapes.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{index + 1}</text>')
    for number, (label, values) in enumerate(lines):
        points = [place(index, value) for index, value in enumerate(values) if value is not None]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        shapes.append(f'<polyline class="line{number % 4}" points="{path}"/>')
        shapes += [f'<circle class="line{number % 4}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
        x, y = points[-1]
        shapes.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(label)}</text>')
    shapes.append(f'<text x="{WIDTH / 2:.0f}" y="{height - 2}" text-anchor="middle">step ({unit})</text>')
    return _svg(height, shapes, "PSNR of the latents behind every step")


def _svg(height: int, shapes: Sequence[str], title: str) -> str:
    body = "".join(shapes)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
