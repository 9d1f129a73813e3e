"""The path of an evolution as a picture: blocks per stage by round, agreement and latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from sfmobile.bundle.bounds import out_of_bounds
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import read_model, validated, write_figure
from sfmobile.nets.layout import UNetLayout
from sfmobile.train.config import parse_config
from sfmobile.train.evolve.evolution import read_decisions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESNET, ATTENTION, GONE, AGREEMENT = "#4878a8", "#c44e52", "#c8c8c8", "#3d8b3d"


class _Read(BaseModel):
    """Of a line or a file what is drawn; the rest is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Round(_Read):
    round: int
    score: float
    latency_ms: float
    latency_after_ms: float
    layout_before: dict[str, Any]
    layout: dict[str, Any]


class _Target(_Read):
    target_ms: float


class _Score(_Read):
    score: float


class _Result(_Read):
    evolved: _Score


def block_counts(layout: UNetLayout) -> list[tuple[str, int, int]]:
    """(stage, ResNets, attention blocks) from the input to the output, as SnapFusion's Table 3 has them."""
    down = [(f"down {number}", stage.resnets, stage.attentions) for number, stage in enumerate(layout.down, 1)]
    up = [(f"up {number}", stage.resnets, stage.attentions) for number, stage in enumerate(layout.up, 1)]
    return [*down, ("mid", layout.mid.resnets, layout.mid.attentions), *up]


def read_path(root: Path) -> list[tuple[str, UNetLayout, float, float | None]]:
    """(label, layout, milliseconds, score) of the supernet and behind each round; the last score is the finished
    network's, None while there is none. Raises `ArtifactError` if no round was decided yet."""
    decisions = read_decisions(root)
    if not decisions:
        raise ArtifactError(f"{root}: expected an evolution's decisions.jsonl, found no round in it; evolve first.")
    last: float | None = None
    if (root / "result.json").exists():
        last = read_model(root / "result.json", _Result, "an evolution's result", "evolve again").evolved.score
    where = f"'{root / 'decisions.jsonl'}'"
    rounds = validated(list[_Round], decisions, where, "an evolution's decisions", "evolve again")

    def layout(entry: dict[str, Any]) -> UNetLayout:
        if (found := out_of_bounds(entry)) is not None:
            raise ArtifactError(f"{where}: {found}; evolve again.")
        return parse_config(UNetLayout, entry, where)

    first = rounds[0]
    scores = [*(entry.score for entry in rounds), last]
    path = [("supernet", layout(first.layout_before), first.latency_ms, scores[0])]
    for entry, score in zip(rounds, scores[1:], strict=True):
        path.append((f"round {entry.round}", layout(entry.layout), entry.latency_after_ms, score))
    return path


def plot_path(root: Path, picture: Path) -> None:
    """Draw the evolution in `root` into the PNG `picture`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UnavailableError("Plots need the package matplotlib; install sfmobile[train].") from error
    path = read_path(root)
    target = validated(_Target, read_decisions(root)[0], str(root), "an evolution", "evolve again").target_ms
    stages = len(block_counts(path[0][1]))
    figure = Figure(figsize=(max(7.0, 1.5 + 1.1 * len(path)), 2.6 + 0.75 * stages), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[0.75 * stages, 2.2])
    _draw_blocks(above, [layout for _, layout, _, _ in path])
    _draw_figures(below, path, target)
    above.set_title("Blocks per stage, and what they are worth")
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_figure(picture, figure, metadata={"Software": ""})


def _draw_blocks(axes: Axes, layouts: list[UNetLayout]) -> None:
    """A square a block: ResNets over attention blocks; a black outline was added by the round, a grey one removed."""
    from matplotlib.patches import Patch, Rectangle

    counts = [block_counts(layout) for layout in layouts]
    widest = max(max(resnets, attentions) for column in counts for _, resnets, attentions in column)
    side = min(0.3, 0.9 / max(widest, 1))
    for x, column in enumerate(counts):
        for y, (_, *blocks) in enumerate(column):
            before = counts[max(x - 1, 0)][y][1:]
            for row, (count, had, colour) in enumerate(zip(blocks, before, (RESNET, ATTENTION), strict=True)):
                for index in range(max(count, had)):
                    left = x - widest * side / 2 + index * side
                    face = colour if index < count else "none"
                    edge = GONE if index >= count else "black" if index >= had else "white"
                    corner = (left, y - 0.32 + row * 0.33)
                    axes.add_patch(Rectangle(corner, side * 0.88, 0.28, facecolor=face, edgecolor=edge))
    axes.set_xlim(-0.6, len(layouts) - 0.4)
    axes.set_ylim(len(counts[0]) - 0.4, -0.6)
    axes.set_yticks(range(len(counts[0])), [name for name, _, _ in counts[0]])
    axes.tick_params(axis="x", bottom=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    handles = [
        Patch(color=RESNET, label="ResNet"),
        Patch(color=ATTENTION, label="cross-attention"),
        Patch(facecolor="none", edgecolor=GONE, label="removed in this round"),
        Patch(facecolor="none", edgecolor="black", label="added in this round"),
    ]
    axes.legend(handles=handles, ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=8)


def _draw_figures(axes: Axes, path: list[tuple[str, UNetLayout, float, float | None]], target: float) -> None:
    """Latency on the left axis, agreement on the right."""
    places = range(len(path))
    axes.plot(places, [latency for _, _, latency, _ in path], color="black", marker="o", label="latency")
    axes.axhline(target, color="black", linestyle=":", linewidth=1)
    axes.annotate(f"target {target:.3g} ms", (0, target), textcoords="offset points", xytext=(-20, -11), fontsize=8)
    axes.set_ylabel("ms a UNet call")
    axes.set_ylim(0, 1.1 * max(latency for _, _, latency, _ in path))
    axes.set_xticks(list(places), [label for label, _, _, _ in path])
    scored = [(place, score) for place, (_, _, _, score) in enumerate(path) if score is not None]
    right = axes.twinx()
    right.plot(
        [place for place, _ in scored], [score for _, score in scored], color=AGREEMENT, marker="s", label="agreement"
    )
    right.set_ylabel("agreement (cosine), fine-tuned", color=AGREEMENT)
    right.margins(y=0.25)
    axes.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
