"""Size against signal: uniform bits, recipes, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfmobile.errors import UnavailableError
from sfmobile.files import write_figure

if TYPE_CHECKING:
    from sfmobile.recipes.search import Point, SearchResult


def check_plotting() -> None:
    """Raise `UnavailableError` without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"Plots need matplotlib ({error}); install it with pip install 'sfmobile[plot]'."
        ) from error


def plot_sizes(results: Sequence[SearchResult], path: Path, title: str) -> None:
    """Write the picture as `path` (PNG, SVG or PDF by its suffix), one panel for each component."""
    check_plotting()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(results), 4.5), layout="constrained")
    for number, result in enumerate(results, start=1):
        panel = figure.add_subplot(1, len(results), number)
        recipes = sorted((*result.curve, result.point), key=lambda point: point.bytes)
        panel.plot(*_coordinates(result.uniform), "o--", color="#4878a8", label="uniform bits", markersize=5)
        panel.plot(*_coordinates(recipes), "s-", color="#c44e52", label="recipes", markersize=4)
        panel.plot(*_coordinates([result.point]), "*", color="#c44e52", label="the recipe written", markersize=14)
        for point in result.uniform:
            place = (point.bytes / 1e6, point.measured.final_db)
            panel.annotate(point.label, place, textcoords="offset points", xytext=(6, -10), fontsize=8)
        final = "latents of whole runs" if result.final == "latents" else "output"
        panel.set(title=result.component, xlabel="weights, MB", ylabel=f"PSNR of the {final}, dB")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    write_figure(path, figure, dpi=130)


def _coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.bytes / 1e6 for point in points], [point.measured.final_db for point in points]
