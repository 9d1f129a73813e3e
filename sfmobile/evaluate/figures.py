"""What each figure of an evaluation is: its unit, which decides how it is written, and the table it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["pictures", "distance", "kernel distance", "cosine", "share", "LPIPS", "per second"]

NETWORK = "EffNetLite0"
FD, AGREEMENT, THROUGHPUT = f"FD-{NETWORK}", "agreement", "pictures per second"
DISTANCES = "Distance and agreement"
CHECKS = "Exact checks of composed prompts"
MEMORISATION = "Distance to the nearest training drawing"
RECOGNITION = "Held-out concept × style recognised"

_WRITTEN: dict[Unit, Callable[[float], str]] = {
    "pictures": lambda value: str(round(value)),
    "distance": lambda value: f"{value:.1f}",
    "kernel distance": lambda value: f"{value:.3f}",
    "cosine": lambda value: f"{value:.3f}",
    "share": lambda value: f"{100 * value:.1f} %",
    "LPIPS": lambda value: f"{value:.3f}",
    "per second": lambda value: f"{value:.1f}",
}


@dataclass(frozen=True)
class FigureKind:
    """unit: of the value; group: title of the table that the figure is a column of."""

    unit: Unit
    group: str

    def written(self, value: float) -> str:
        """The value as a table has it."""
        return _WRITTEN[self.unit](value)


# In the order of the columns.
KINDS: dict[str, FigureKind] = {
    "samples": FigureKind("pictures", DISTANCES),
    FD: FigureKind("distance", DISTANCES),
    f"{FD} floor": FigureKind("distance", DISTANCES),
    f"KD-{NETWORK}": FigureKind("kernel distance", DISTANCES),
    f"KD-{NETWORK} floor": FigureKind("kernel distance", DISTANCES),
    AGREEMENT: FigureKind("cosine", DISTANCES),
    "agreement with other prompts": FigureKind("cosine", DISTANCES),
    "prompt R@1": FigureKind("share", DISTANCES),
    "prompt R@5": FigureKind("share", DISTANCES),
    THROUGHPUT: FigureKind("per second", DISTANCES),
    "background right": FigureKind("share", CHECKS),
    "object colour right": FigureKind("share", CHECKS),
    "count right": FigureKind("share", CHECKS),
    "side right": FigureKind("share", CHECKS),
    "nearest training LPIPS": FigureKind("LPIPS", MEMORISATION),
    "nearest training LPIPS, 5th percentile": FigureKind("LPIPS", MEMORISATION),
    "agreement with held-out concept × style": FigureKind("cosine", RECOGNITION),
}


def recognised(k: int, candidates: int) -> str:
    """Name of the share of held-out concept × style pictures recognised among the k nearest of so many texts."""
    return f"recognised R@{k} of {candidates}"


def kinds_of_recognition(*candidates: int) -> dict[str, FigureKind]:
    """The kinds of `recognised` for these numbers of candidates."""
    return {recognised(k, count): FigureKind("share", RECOGNITION) for k in (1, 5) for count in candidates}
