from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfmobile.errors import ArtifactError, SfmobileError, UsageError
from sfmobile.train.own.pictures import LISTING, read_folder


def refused(folder: Path) -> str:
    with pytest.raises(SfmobileError) as error:
        read_folder(folder)
    return str(error.value)


def test_captions_stand_beside_their_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text(" a red\n mug \n")
    (tmp_path / "b.txt").write_text("a blue mug")
    assert [(one.path.name, one.caption) for one in read_folder(tmp_path)] == [
        ("a.JPG", "a red mug"), ("b.png", "a blue mug")
    ]  # fmt: skip
    (tmp_path / "c.webp").touch()
    assert "c.webp' has no caption: expected 'c.txt'" in refused(tmp_path)


def test_a_listing_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    line = {"file_name": "a.png", "text": "a mug", "more": 1}
    (tmp_path / LISTING).write_text(json.dumps(line) + "\n\n")
    assert [(one.path.name, one.caption) for one in read_folder(tmp_path)] == [("a.png", "a mug")]
    for wrong, said in (
        ({"file_name": "../a.png", "text": "x"}, "isn't in the folder"),
        ({"file_name": "b.png", "text": "x"}, "'b.png', which isn't in the folder"),
        ({"file_name": "a.png"}, "Line 1"),
        ({"file_name": "a.png", "text": " "}, "is empty"),
    ):
        (tmp_path / LISTING).write_text(json.dumps(wrong))
        assert said in refused(tmp_path)


def test_what_is_no_such_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found nothing"):
        read_folder(tmp_path / "absent")
    with pytest.raises(UsageError, match="holds no pictures"):
        read_folder(tmp_path)
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").touch()
    with pytest.raises(ArtifactError, match="is empty"):
        read_folder(tmp_path)
