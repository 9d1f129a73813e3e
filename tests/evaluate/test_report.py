from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfmobile.errors import ArtifactError
from sfmobile.evaluate.figures import KINDS, FigureKind, kinds_of_recognition
from sfmobile.evaluate.plots import write_grid, write_plots
from sfmobile.evaluate.report import EvaluationRecord, SamplerFigures, markdown, parts, table
from tests.tiny import REPOSITORY

OWN = {"compositions": {"pairs": 10, "candidates": 9, "recall_at_1": 0.5, "recall_at_5": 0.9, "agreement": 0.61}}


def record() -> EvaluationRecord:
    sweep = [
        SamplerFigures(
            f"g{g}",
            {"guidance": g},
            {"FD-EffNetLite0": 40 + g, "agreement": 0.2 + g / 50},
            "guidance: student",
            "guidance",
        )
        for g in (1.0, 2.0, 4.0)
    ]
    figures = {"FD-EffNetLite0": 51.25, "FD-EffNetLite0 floor": 20.5, "agreement": 0.4321, "count right": 0.875}
    one = SamplerFigures("student, 8 steps", {"steps": 8, "guidance": 3.0}, {**figures, "recognised R@5 of 9": 0.5})
    made = {
        "config": {"checks": ["background", "colour"], "feature_size": 112},
        "prompts": {"distribution": 384, "recognition": 92, "composed": 64},
        "machine": {"device": "test", "torch": "2.9", "threads": "1"},
        "side": 64,
        "command": "sfmobile train evaluate models/recipes/glyph-64 --run RUN -o DIRECTORY",
    }
    kinds = {**KINDS, **kinds_of_recognition(9)}
    return EvaluationRecord(
        made, OWN, [one, *sweep], {"Decoder pair": {"own_psnr": 31.5, "full_macs": 1200}}, kinds=kinds
    )


def test_a_record_reads_back_and_finds_its_measurements(tmp_path: Path) -> None:
    written = record()
    written.write(tmp_path / "out" / "evaluation.json")
    assert EvaluationRecord.read(tmp_path / "out" / "evaluation.json") == written
    assert written.find("g2.0") is written.measurements[2]
    assert written.find("other") is None


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 9}', '{"schema_version": 1, "made": {}, "judge": {}}'])
def test_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"e\.json"):
        EvaluationRecord.read(tmp_path / "e.json")


@pytest.mark.parametrize("folder", ["evaluation", "evaluation-64px"])
def test_the_built_in_models_records_give_the_tables_beside_them(folder: str, tmp_path: Path) -> None:
    """They were written before figures had kinds in the record; written anew, they say the same."""
    directory = REPOSITORY / "models" / "glyph" / folder
    old = EvaluationRecord.read(directory / "evaluation.json")
    assert markdown(old) == (directory / "evaluation.md").read_text(encoding="utf-8")
    old.write(tmp_path / "evaluation.json")
    new = EvaluationRecord.read(tmp_path / "evaluation.json")
    assert new == old and new.kinds["prompt R@1"].unit == "share"
    assert {item.varies for item in new.measurements} == {None, "steps", "guidance"}


def test_a_figures_unit_is_told_by_the_record_and_not_by_its_name(tmp_path: Path) -> None:
    kinds = {"R@1 of nothing": FigureKind("LPIPS", "Odd"), "FD of nothing": FigureKind("share", "Odd")}
    odd = EvaluationRecord(record().made, {}, [SamplerFigures("a", {}, dict.fromkeys(kinds, 0.25))], kinds=kinds)
    assert "## Odd\n\n| | R@1 of nothing | FD of nothing |\n|---|---:|---:|\n| a | 0.250 | 25.0 % |" in markdown(odd)
    odd.kinds.pop("R@1 of nothing")
    odd.write(tmp_path / "e.json")
    with pytest.raises(ArtifactError, match="it doesn't say what the figure 'R@1 of nothing' is"):
        EvaluationRecord.read(tmp_path / "e.json")


def test_a_table_has_only_columns_that_someone_measured() -> None:
    rows = [SamplerFigures("a", {}, {"FD-EffNetLite0": 1.25}), SamplerFigures("b", {}, {"prompt R@1": 0.5})]
    assert table(rows, ("FD-EffNetLite0", "agreement", "prompt R@1")).splitlines() == [
        "| | FD-EffNetLite0 | prompt R@1 |",
        "|---|---:|---:|",
        "| a | 1.2 | – |",
        "| b | – | 50.0 % |",
    ]


def test_the_judges_own_figures_come_first_and_every_distance_has_its_floor_beside_it() -> None:
    text = markdown(record())
    assert text.index("| compositions | 10 | 9 | 50.0 % | 90.0 % | 0.610 |") < text.index("student, 8 steps")
    header = next(line for line in text.splitlines() if "FD-EffNetLite0" in line)
    assert "| FD-EffNetLite0 | FD-EffNetLite0 floor |" in header
    assert "87.5 %" in text
    assert "| full_macs | 1,200 |" in text
    assert "FID" not in text.split("## ", 1)[1]


def test_the_heading_says_on_what_and_how_it_was_measured() -> None:
    heading = markdown(record()).split("## ")[0]
    for words in (
        "384 prompts",
        "(background, colour)",
        "64 px",
        "112 px",
        "not FID",
        "Machine: test, torch 2.9, 1 thr",
    ):
        assert words in heading, words
    assert "`sfmobile train evaluate models/recipes/glyph-64 --run RUN -o DIRECTORY --only NAME`" in heading


def test_plots_and_grid_are_pictures(tmp_path: Path) -> None:
    files = write_plots(record(), tmp_path)
    assert [path.name for path in files] == ["trade-off.png", "guidance-sweep.png"]
    for path in files:
        with Image.open(path) as picture:
            assert picture.width > 300
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    grey = torch.full((2, 3, 16, 16), 128, dtype=torch.uint8)
    long = "a yellow star on a blue background beside a very small green turtle"
    grid = write_grid([("red", red), ("grey", grey)], [long, "b"], tmp_path / "g.png")
    with Image.open(grid) as picture:
        # Small pictures are shown large, below a heading of as many lines as the longest caption needs.
        shown = np.asarray(picture)
        height, width = shown.shape[:2]
        assert (shown[height - 10, width - 10] == 128).all()
        assert (shown[height - 10 - 132, width - 10] == (255, 0, 0)).all()
        assert (shown[height - 128 - 4, width - 10] == 128).all()
        heading = height - 2 * 132
        assert heading >= 4 * 13
        assert (shown[heading - 4 : heading] == 255).all()


def test_a_terminal_is_shown_tables_and_no_markup() -> None:
    text = markdown(record())
    shown = list(parts(text))
    tables = [one for one in shown if not isinstance(one, str)]
    assert [one.title for one in tables] == [
        line.removeprefix("## ") for line in text.splitlines() if line.startswith("##")
    ]
    assert sum(len(one.rows) + 2 for one in tables) == sum(line.startswith("|") for line in text.splitlines())
    assert all(len(row) == len(one.columns) for one in tables for row in one.rows)
    assert not any(one.startswith(("#", "|")) for one in shown if isinstance(one, str))
