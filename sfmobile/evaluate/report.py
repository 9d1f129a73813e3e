"""The evaluation's record (JSON) and its tables (Markdown)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sfmobile.errors import ArtifactError
from sfmobile.train.state import write_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """One sampler's figures by name, with the settings that it ran with; `series` groups the points of one sweep."""

    name: str
    settings: dict[str, float | int | str]
    figures: dict[str, float] = field(default_factory=dict)
    series: str = ""


@dataclass
class Record:
    """All that an evaluation measured.

    made: on what (prompts, networks, machine); judge: the dual encoder's own retrieval; extra: figures that belong to
    no sampler (decoder pairs); targets: their table, in Markdown; notes: what a reader must know, a paragraph each;
    sources: for parts of `extra`, which weights they were measured on.
    """

    made: dict[str, Any]
    judge: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    extra: dict[str, dict[str, float]] = field(default_factory=dict)
    targets: str = ""
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Measurement | None:
        """The measurement called `name`, if there is one."""
        return next((item for item in self.measurements if item.name == name), None)

    def put(self, measurement: Measurement) -> None:
        """Add a measurement, in place of the one of its name if there is one."""
        for place, item in enumerate(self.measurements):
            if item.name == measurement.name:
                self.measurements[place] = measurement
                return
        self.measurements.append(measurement)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read what `write` wrote. Raises ArtifactError."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ArtifactError(
                    f"{path}: expected an evaluation record of version {SCHEMA_VERSION}, found "
                    f"{raw['schema_version']}; measure again."
                )
            measurements = [Measurement(**item) for item in raw["measurements"]]
            return cls(
                raw["made"],
                raw["judge"],
                measurements,
                raw["extra"],
                raw.get("targets", ""),
                raw.get("notes", []),
                raw.get("sources", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: expected an evaluation record, found: {error!r}.") from error


def table(measurements: Sequence[Measurement], figures: Sequence[str]) -> str:
    """A Markdown table: a row per measurement, a column per figure that any of them has, "–" where one lacks it."""
    shown = [name for name in figures if any(name in item.figures for item in measurements)]
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + "---:|" * len(shown)]
    for item in measurements:
        cells = [_figure(name, item.figures[name]) if name in item.figures else "–" for name in shown]
        lines.append(f"| {item.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(name: str, value: float) -> str:
    if "R@" in name or name.endswith("right"):
        return f"{100 * value:.1f} %"
    if name.startswith("FD") or name == "pictures per second":
        return f"{value:.1f}"
    if name == "samples":
        return str(round(value))
    return f"{value:.3f}"


DISTANCES = "Distance and agreement"
GROUPS: dict[str, tuple[str, ...]] = {
    DISTANCES: (
        "samples",
        "FD-EffNetLite0",
        "FD-EffNetLite0 floor",
        "KD-EffNetLite0",
        "KD-EffNetLite0 floor",
        "agreement",
        "agreement with other prompts",
        "prompt R@1",
        "prompt R@5",
        "pictures per second",
    ),
    "Exact checks of composed prompts": ("background right", "object colour right", "count right", "side right"),
    "Distance to the nearest training drawing": (
        "nearest training LPIPS",
        "nearest training LPIPS, 5th percentile",
    ),
}


def markdown(record: Record) -> str:
    """The tables of a record, the judge's own figures first."""
    lines = [
        *_heading(record.made),
        *(line for note in record.notes for line in ("", note)),
        record.targets,
        "## What measures",
        "",
        "| the dual encoder on real pictures | pairs | candidates | R@1 | R@5 | agreement |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for name, own in record.judge.items():
        cells = (
            own["pairs"],
            own["candidates"],
            f"{100 * own['recall_at_1']:.1f} %",
            f"{100 * own['recall_at_5']:.1f} %",
        )
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + f" | {own['agreement']:.3f} |")
    recognised = sorted(
        {
            name
            for item in record.measurements
            for name in item.figures
            if name.startswith(("recognised", "agreement with held-out"))
        }
    )
    single = [item for item in record.measurements if not item.series]
    for title, figures in (*GROUPS.items(), ("Held-out concept × style recognised", tuple(recognised))):
        rows = [item for item in single if any(name in item.figures for name in figures)]
        if rows:
            lines += ["", f"## {title}", "", table(rows, figures)]
    for series in dict.fromkeys(item.series for item in record.measurements if item.series):
        rows = [item for item in record.measurements if item.series == series]
        lines += ["", f"## {series}", "", table(rows, [name for group in GROUPS.values() for name in group])]
    for name, extra in record.extra.items():
        lines += ["", f"## {name}", "", "| | |", "|---|---:|"]
        lines += [
            f"| {key} | {value:,.3f} |" if isinstance(value, float) else f"| {key} | {value:,} |"
            for key, value in extra.items()
        ]
    return "\n".join(lines) + "\n"


def _heading(made: Mapping[str, Any]) -> list[str]:
    """What was measured on, with what, and how to do it again."""
    config, prompts, on = made["config"], made["prompts"], made["machine"]
    lines = [
        "# Evaluation",
        "",
        f"{prompts['distribution']} prompts for distances and agreement, each for a combination that training never "
        f"shows; {prompts['recognition']} for held-out concept × style; {prompts['composed']} for the exact checks "
        f"({', '.join(config['checks'])}). Pictures of {made['side']} px. Distances are in the 1,280 pooled features "
        f"of EfficientNet-Lite0 on pictures resized to {config['feature_size']} px: they are not FID, and at this "
        "number of pictures the Fréchet one is far above zero for real pictures, too: that is the floor, real training "
        "pictures against the real held-out ones. The kernel one (× 1,000) is unbiased.",
        "",
        f"Machine: {on['device']}, torch {on['torch']}, {on.get('threads', '?')} thread(s).",
    ]
    if made.get("command"):
        lines += ["", f"Each figure again: `{made['command']} --only NAME`."]
    return lines


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were measured with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }
