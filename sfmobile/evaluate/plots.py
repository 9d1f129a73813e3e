"""Plots of an evaluation record (PNG) and grids of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sfmobile.errors import UnavailableError
from sfmobile.evaluate.figures import AGREEMENT, FD
from sfmobile.evaluate.metrics.memorisation import as_bytes
from sfmobile.evaluate.report import Axis, EvaluationRecord, SamplerFigures
from sfmobile.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pictures in a grid are at least about this wide.
_GRID_SIDE = 128
_MARKERS = ("D", "^", "s", "v")


def write_plots(record: EvaluationRecord, directory: Path) -> list[Path]:
    """The trade-off of distance and agreement over all measurements, and one plot a sweep; returns the files."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UnavailableError("Plots need the package matplotlib; install sfmobile[train].") from error

    directory.mkdir(parents=True, exist_ok=True)
    written = []

    def save(figure: Figure, name: str) -> None:
        FigureCanvasAgg(figure)
        path = directory / f"{name}.png"
        write_figure(path, figure, dpi=120, bbox_inches="tight", metadata={"Software": ""})
        written.append(path)

    points = [item for item in record.measurements if FD in item.figures and AGREEMENT in item.figures]
    if points:
        figure = Figure(figsize=(7, 5))
        _trade_off(figure.add_subplot(), [item for item in points if not item.series or item.varies == "guidance"])
        save(figure, "trade-off")
    axes: tuple[Axis, ...] = ("guidance", "steps")
    for axis in axes:
        if any(item.varies == axis for item in points):
            figure = Figure(figsize=(9, 3.8))
            for place, quantity in enumerate((FD, AGREEMENT), start=1):
                _sweep(figure.add_subplot(1, 2, place), points, axis, quantity)
            save(figure, f"{axis}-sweep")
    return written


def _series(points: Sequence[SamplerFigures]) -> dict[str, list[SamplerFigures]]:
    groups: dict[str, list[SamplerFigures]] = {}
    for item in points:
        groups.setdefault(item.series or item.name, []).append(item)
    return groups


def _trade_off(axes: Axes, points: Sequence[SamplerFigures]) -> None:
    for number, (name, items) in enumerate(_series(points).items()):
        x, y = [item.figures[AGREEMENT] for item in items], [item.figures[FD] for item in items]
        # Sweeps are lines; single measurements go through more markers than there are colours.
        marker = "o" if items[0].series else _MARKERS[number // 10 % len(_MARKERS)]
        axes.plot(x, y, marker=marker, markersize=5, linewidth=1, label=name)
        for item, at_x, at_y in zip(items, x, y, strict=True):
            if item.series:
                axes.annotate(f"{item.settings.get('guidance', '')}", (at_x, at_y), fontsize=6)
    floor = points[0].figures.get(f"{FD} floor")
    if floor is not None:
        axes.axhline(floor, color="grey", linestyle=":", label="floor: training against held-out pictures")
    axes.set_xlabel("agreement with the prompt (cosine)")
    axes.set_ylabel(FD)
    axes.legend(fontsize=6)


def _sweep(axes: Axes, points: Sequence[SamplerFigures], axis: Axis, quantity: str) -> None:
    for name, items in _series([item for item in points if item.varies == axis]).items():
        ordered = sorted(items, key=lambda item: float(item.settings[axis]))
        axes.plot(
            [float(item.settings[axis]) for item in ordered],
            [item.figures[quantity] for item in ordered],
            marker="o",
            markersize=4,
            label=name,
        )
    if axis == "steps":
        axes.set_xscale("log", base=2)
    axes.set_xlabel("guidance scale" if axis == "guidance" else "steps")
    axes.set_ylabel(quantity)
    axes.legend(fontsize=6)


def write_grid(rows: Sequence[tuple[str, Tensor]], captions: Sequence[str], path: Path) -> Path:
    """A PNG with one row a sampler and one column a caption; small pictures are enlarged, pixel by pixel.

    rows: label and pictures (len(captions), 3, H, W), uint8 or in [-1, 1].
    """
    import textwrap

    from PIL import Image, ImageDraw

    scale = max(1, _GRID_SIDE // rows[0][1].shape[-1])
    side = scale * rows[0][1].shape[-1]
    headings = [textwrap.wrap(caption, max(8, side // 6)) for caption in captions]
    gap, line, label = 4, 13, 110
    head = line * max(map(len, headings)) + gap
    width, height = label + len(captions) * (side + gap), head + len(rows) * (side + gap)
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        for number, text in enumerate(heading):
            pen.text((label + column * (side + gap), number * line), text, fill=(0, 0, 0), font_size=11)
    for row, (name, pictures) in enumerate(rows):
        y = head + row * (side + gap)
        pen.multiline_text((2, y + side // 3), textwrap.fill(name, 18), fill=(0, 0, 0), font_size=11)
        for column, picture in enumerate(as_bytes(pictures) if pictures.is_floating_point() else pictures):
            shown = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())
            enlarged = shown.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (label + column * (side + gap), y))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
