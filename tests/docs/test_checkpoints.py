"""The README's table of checkpoints says what the code takes."""

from __future__ import annotations

import re
from pathlib import Path

from sfmobile.checkpoint.description import PIPELINES

README = Path(__file__).parents[2] / "README.md"


def rows() -> list[list[str]]:
    section = README.read_text(encoding="utf-8").split("## Which checkpoints")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_has_every_pipeline_class_with_its_task() -> None:
    tasks = {name: task for classes, _, task in rows() for name in re.findall(r"`(\w+)`", classes)}
    assert tasks == {name: kind.task for name, kind in PIPELINES.items() if name != "SfmobilePipeline"}


def test_the_table_has_the_channels_of_each_unet() -> None:
    for classes, families, _ in rows():
        for name in re.findall(r"`(\w+)`", classes):
            if PIPELINES[name].channels:
                assert f"UNets of {4 + PIPELINES[name].channels} channels" in families, name
