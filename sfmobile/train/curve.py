"""The loss curve of a stage as a picture, from its log."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import parse_json, read_text, validated, write_figure


class _Entry(BaseModel):
    """A line: the step, and any figures; None for one that wasn't finite."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, float | None]

    step: int = Field(ge=0, le=2**53)


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """log.jsonl as (step, value) per figure; a step written twice (after a resume) counts with its last line."""
    what, mend = "an entry of a stage's log", "delete the line"
    lines = read_text(path, "a stage's log", "run the stage first").splitlines()
    figures: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        where = f"'{path}' line {number}"
        try:
            entry = validated(_Entry, parse_json(line, where, what, mend), where, what, mend)
        except ArtifactError:
            if number == len(lines):
                break  # a line cut by a kill
            raise
        for name, value in (entry.model_extra or {}).items():
            if value is not None:
                figures.setdefault(name, {})[entry.step] = value
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
    axes.set(xlabel="step", yscale="log")
    # Names are no formulas, even with a dollar in them.
    axes.set_title(log.parent.name, parse_math=False)
    axes.grid(alpha=0.3)
    if curves:
        for text in axes.legend().get_texts():
            text.set_parse_math(False)
    figure.tight_layout()
    try:
        write_figure(picture, figure)
    finally:
        pyplot.close(figure)
