"""The loss curve of a stage as a picture, from its log."""

from __future__ import annotations

import json
from pathlib import Path

from sfmobile.errors import ArtifactError, UnavailableError


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """log.jsonl as (step, value) per figure; a step written twice (after a resume) counts with its last line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: expected a stage's log, found no such file; run the stage first.") from error
    figures: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = int(entry.pop("step"))
        except (ValueError, KeyError, AttributeError) as error:
            if number == len(lines):
                break  # a line cut by a kill
            raise ArtifactError(f"{path}: line {number} isn't a log entry ({error}); delete the line.") from error
        for name, value in entry.items():
            figures.setdefault(name, {})[step] = float(value)
    return {name: sorted(values.items()) for name, values in figures.items()}


def plot_log(log: Path, picture: Path) -> None:
    """Draw every loss of `log` over the steps into the PNG `picture`, on a logarithmic axis."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise UnavailableError("Plots need the package matplotlib; install sfmobile[train].") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    curves = {
        name: values for name, values in read_log(log).items() if name not in ("images_per_second", "gradient_norm")
    }
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    for name, values in curves.items():
        axes.plot([step for step, _ in values], [value for _, value in values], label=name)
    axes.set(xlabel="step", yscale="log", title=log.parent.name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture)
    pyplot.close(figure)
