"""A picture of where the time goes: one bar a component, its blocks beside each other, and the budget as a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.errors import UnavailableError
from sfmobile.files import write_figure
from sfmobile.inspect.operations.blocks import block_kind

if TYPE_CHECKING:
    from sfmobile.inspect.estimate.times import DeviceTime

COLOURS = {
    "resnet": "#4878a8",
    "attention": "#c44e52",
    "layer": "#8172b2",
    "downsample": "#64b5cd",
    "upsample": "#64b5cd",
}
NAMES = {"layer": "text layer", "downsample": "resampling", "upsample": "resampling"}
OTHER = "#9a9a9a"
# A budget further away than this many times the longest bar is only named.
FARTHEST_BUDGET = 3.0


def plot_times(report: DeviceTime, path: Path) -> None:
    """Write the picture as `path` (PNG, SVG or PDF by its suffix). Raises `UnavailableError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise UnavailableError(
            f"Plots need matplotlib ({error}); install it with pip install 'sfmobile[plot]'."
        ) from error
    figure = Figure(figsize=(10, 1.6 + 0.9 * len(report.components)), layout="constrained")
    axes = figure.add_subplot()
    names = []
    for row, component in enumerate(report.components):
        left = 0.0
        for block in component.blocks:
            width = block.milliseconds * component.calls
            colour = COLOURS.get(block_kind(block.block), OTHER)
            axes.barh(row, width, left=left, height=0.6, color=colour, edgecolor="white", linewidth=0.6)
            if width > 0.02 * report.picture_ms:
                middle = left + width / 2
                name = _short(block.block)
                axes.text(middle, row, name, ha="center", va="center", fontsize=6, rotation=90, color="white")
            left += width
        names.append(f"{component.component}\n{component.calls} x {component.call_ms:.1f} ms, {component.basis}")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    longest = max(one.picture_ms for one in report.components)
    budget = f"budget {report.budget_ms / 1e3:g} s"
    if report.budget_ms <= FARTHEST_BUDGET * longest:
        axes.axvline(report.budget_ms, color="black", linestyle="--", linewidth=1)
        axes.text(report.budget_ms, -0.42, f"{budget} ", fontsize=8, va="top", ha="right")
        axes.set_xlim(0, max(report.budget_ms, longest) * 1.08)
    else:
        axes.set_xlim(0, longest * 1.08)
    axes.set_xlabel(f"ms per picture, {budget}")
    total = f"{report.picture_ms / 1e3:.2f} s" if report.picture_ms >= 1000 else f"{report.picture_ms:.1f} ms"
    axes.set_title(f"{report.device_name} ({report.chip}): {total} a picture, {report.label}", fontsize=10)
    kinds = dict.fromkeys(block_kind(block.block) for one in report.components for block in one.blocks)
    shown = {NAMES.get(kind, kind): COLOURS[kind] for kind in kinds if kind in COLOURS} | {"other": OTHER}
    patches = [Patch(color=colour, label=kind) for kind, colour in shown.items()]
    figure.legend(handles=patches, fontsize=7, ncols=len(patches), loc="outside lower center", frameon=False)
    write_figure(path, figure, dpi=150)


def _short(block: str) -> str:
    """E.g. "d0.a1" for "down_blocks.0.attentions.1"."""
    parts = block.replace("down_blocks", "d").replace("up_blocks", "u").replace("mid_block", "m").split(".")
    letters = {"resnets": "r", "attentions": "a", "downsamplers": "down", "upsamplers": "up", "layers": "l"}
    return "".join(letters.get(part, part) if not part.isdigit() else f"{part}." for part in parts).rstrip(".")
