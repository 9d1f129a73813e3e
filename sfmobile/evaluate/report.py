"""The evaluation's record (JSON) and its tables (Markdown)."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from sfmobile.errors import ArtifactError
from sfmobile.evaluate.figures import KINDS, RECOGNITION, FigureKind
from sfmobile.files import StrictModel, read_json, validated, write_json
from sfmobile.tables import Table

SCHEMA_VERSION = 2
# Before figures had kinds, and sweeps an axis, in the record itself.
OLD_VERSION = 1
# What a sweep varies.
Axis = Literal["steps", "guidance"]


@dataclass(frozen=True)
class SamplerFigures:
    """One sampler's figures by name, with the settings that it ran with; `series` groups the points of one sweep, and
    `varies` is the setting in which they differ."""

    name: str
    settings: dict[str, float | int | str]
    figures: dict[str, float] = field(default_factory=dict)
    series: str = ""
    varies: Axis | None = None


@dataclass
class EvaluationRecord:
    """All that an evaluation measured.

    made: on what (prompts, networks, machine); judge: the dual encoder's own retrieval; extra: figures that belong to
    no sampler (decoder pairs); targets: their table, in Markdown; notes: what a reader must know, a paragraph each;
    sources: for parts of `extra`, which weights they were measured on; kinds: what each figure of a sampler is, in the
    order of the tables' columns.
    """

    made: dict[str, Any]
    judge: dict[str, Any]
    measurements: list[SamplerFigures] = field(default_factory=list)
    extra: dict[str, dict[str, float]] = field(default_factory=dict)
    targets: str = ""
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, FigureKind] = field(default_factory=lambda: dict(KINDS))

    def find(self, name: str) -> SamplerFigures | None:
        """The measurement called `name`, if there is one."""
        return next((item for item in self.measurements if item.name == name), None)

    def put(self, measured: SamplerFigures) -> None:
        """Add a sampler's figures, in place of those of its name if there are any."""
        for place, item in enumerate(self.measurements):
            if item.name == measured.name:
                self.measurements[place] = measured
                return
        self.measurements.append(measured)

    def figures_of(self, *groups: str) -> list[str]:
        """The names of the figures of these groups, in the order of the columns."""
        return [name for name, kind in self.kinds.items() if kind.group in groups]

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> EvaluationRecord:
        """Read what `write` wrote, or a version before. Raises ArtifactError."""
        what, mend = "an evaluation record", "measure again"
        raw = read_json(path, what, mend)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version not in (None, OLD_VERSION, SCHEMA_VERSION):
            raise ArtifactError(f"{path}: expected {what} of version {SCHEMA_VERSION}, found {version}; {mend}.")
        held = validated(_Stored, raw, f"'{path}'", what, mend)
        record = cls(**{name: getattr(held, name) for name in _Stored.model_fields if name != "schema_version"})
        if held.schema_version == OLD_VERSION:
            record.measurements = [_with_axis(item) for item in record.measurements]
            record.kinds = _kinds_by_name(name for item in record.measurements for name in item.figures)
        unknown = {name for item in record.measurements for name in item.figures} - set(record.kinds)
        if unknown:
            raise ArtifactError(f"{path}: it doesn't say what the figure '{min(unknown)}' is; {mend}.")
        return record


class _Stored(StrictModel):
    schema_version: Literal[1, 2]
    made: dict[str, Any]
    judge: dict[str, Any]
    measurements: list[SamplerFigures]
    # Counts stay whole numbers, which tables write as such.
    extra: dict[str, dict[str, int | float]]
    targets: str = ""
    notes: list[str] = Field(default_factory=list)
    sources: dict[str, str] = Field(default_factory=dict)
    kinds: dict[str, FigureKind] = Field(default_factory=dict)


def _with_axis(item: SamplerFigures) -> SamplerFigures:
    """A point of version 1, whose sweep was called "steps: …" or "guidance: …"."""
    axis = item.series.partition(":")[0]
    varies: Axis | None = axis if axis in ("steps", "guidance") else None  # type: ignore[assignment]
    return SamplerFigures(item.name, item.settings, item.figures, item.series, varies)


def _kinds_by_name(names: Iterable[str]) -> dict[str, FigureKind]:
    """The kinds of version 1's figures, which their names told."""
    shares = sorted({name for name in names if re.fullmatch(r"recognised R@\d+ of \d+", name)})
    return {**KINDS, **{name: FigureKind("share", RECOGNITION) for name in shares}}


def table(
    measurements: Sequence[SamplerFigures], figures: Sequence[str], kinds: Mapping[str, FigureKind] = KINDS
) -> str:
    """A Markdown table: a row per measurement, a column per figure that any of them has, "–" where one lacks it."""
    shown = [name for name in figures if any(name in item.figures for item in measurements)]
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + "---:|" * len(shown)]
    for item in measurements:
        cells = [kinds[name].written(item.figures[name]) if name in item.figures else "–" for name in shown]
        lines.append(f"| {item.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(record: EvaluationRecord) -> str:
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
    single = [item for item in record.measurements if not item.series]
    groups = list(dict.fromkeys(kind.group for kind in record.kinds.values()))
    for title in groups:
        figures = record.figures_of(title)
        rows = [item for item in single if any(name in item.figures for name in figures)]
        if rows:
            lines += ["", f"## {title}", "", table(rows, figures, record.kinds)]
    # A sweep has a table of its own, and recognition no place in it.
    columns = record.figures_of(*(group for group in groups if group != RECOGNITION))
    for series in dict.fromkeys(item.series for item in record.measurements if item.series):
        rows = [item for item in record.measurements if item.series == series]
        lines += ["", f"## {series}", "", table(rows, columns, record.kinds)]
    for name, extra in record.extra.items():
        lines += ["", f"## {name}", "", "| | |", "|---|---:|"]
        lines += [
            f"| {key} | {value:,.3f} |" if isinstance(value, float) else f"| {key} | {value:,} |"
            for key, value in extra.items()
        ]
    return "\n".join(lines) + "\n"


def parts(text: str) -> Iterator[Table | str]:
    """The Markdown of a record as tables and sentences for a terminal; a table's title is the heading above it."""
    title = ""
    rows: list[tuple[str, ...]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = tuple(cell.strip().replace("**", "") for cell in line.strip("|").split("|"))
            if not all(cell and set(cell) <= {"-", ":"} for cell in cells):
                rows.append(cells)
            continue
        if rows:
            yield Table(title, rows[0], tuple(rows[1:]))
            title, rows = "", []
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line:
            yield line


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
