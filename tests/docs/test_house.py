from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from docs.house import BOX_WIDTH, PAGE, PICTURE, arrows, draw, floors, needed, place, rooms
from tests.tiny import REPOSITORY

Down = dict[str, frozenset[str]]
# Paths that stand for any others, of the sentence that says how tests mirror the package.
EXAMPLES = ("sfmobile/a/b.py", "tests/a/test_b.py")


def below(down: Down, room: str) -> set[str]:
    found: set[str] = set()
    wanted = set(down[room])
    while wanted:
        found |= wanted
        wanted = {other for room in wanted for other in down[room]} - found
    return found


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Of three rooms: a file, and two folders above it, the upper one importing both, one inside a function."""
    files = {
        "house/__init__.py": "",
        "house/ground.py": "import json\n",
        "house/middle/__init__.py": "from house.ground import thing\n",
        "house/middle/deep/__init__.py": "",
        "house/middle/deep/cellar.py": "from house import middle\n",
        "house/attic/__init__.py": "from house.middle.deep import cellar\n",
        "house/attic/box.py": "def open():\n    import house.ground\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path / "house"


def test_arrows_are_the_imports_between_rooms_wherever_they_stand(package: Path) -> None:
    assert rooms(package) == {"ground": False, "middle": True, "attic": True}
    assert arrows(package) == {"ground": set(), "middle": {"ground"}, "attic": {"middle", "ground"}}


def test_an_arrow_that_a_longer_way_says_is_left_out_and_nothing_else(package: Path) -> None:
    assert needed(arrows(package)) == {"ground": set(), "middle": {"ground"}, "attic": {"middle"}}
    ours = arrows()
    assert {room: below(needed(ours), room) for room in ours} == {room: below(ours, room) for room in ours}


def test_the_committed_picture_is_what_the_code_imports() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(arrows(), rooms()), "draw it again with `make house`"


def test_the_picture_shows_every_room_and_every_arrow_that_is_needed() -> None:
    picture, down = PICTURE.read_text(encoding="utf-8"), needed(arrows())
    assert sorted(re.findall(r"<text [^>]*>(\w+)</text>", picture)) == sorted(floors())
    shown = set(re.findall(r"<title>(\w+) imports (\w+)</title>", picture))
    assert shown == {(room, other) for room, others in down.items() for other in others}


def test_arrows_go_down_and_boxes_stand_side_by_side() -> None:
    nodes, ways = place(needed(arrows()))
    assert all(nodes[upper].floor == nodes[lower].floor + 1 for way in ways.values() for upper, lower in pairwise(way))
    for floor in {node.floor for node in nodes.values()}:
        row = sorted((node for node in nodes.values() if node.floor == floor), key=lambda node: node.x)
        assert all(right.x - left.x >= (left.width + right.width) / 2 - 1e-6 for left, right in pairwise(row))
    # Helvetica's and its substitutes' letters of 14 px are at most 9 px wide, but for m and w.
    assert max(len(name) for name in floors()) * 9 < BOX_WIDTH


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(\w[\w/.]*/[\w/.]*)`", PAGE.read_text(encoding="utf-8")))))
def test_every_path_of_the_page_is_there(path: str) -> None:
    inside = ("", "sfmobile/train", "sfmobile/inspect", "sfmobile/runtime")
    assert any((REPOSITORY / folder / path).exists() for folder in inside) or path in EXAMPLES
