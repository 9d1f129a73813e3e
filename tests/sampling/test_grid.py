from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.sampling.grid import Choices, Variant, file_name, grid_sheet, parse_seeds, read_prompts
from sfmobile.sampling.picture import Picture

OUT = Path("out.png")


def picture(value: int, height: int = 32, width: int = 32) -> Picture:
    return Picture(np.full((height, width, 3), value, np.uint8))


def test_seeds_are_lists_of_numbers_and_ranges() -> None:
    assert parse_seeds("0-3,7") == (0, 1, 2, 3, 7) and parse_seeds("5") == (5,)
    for text in ("", "a", "3-1", "1,,2", "1,1", "0-99999999", "-1"):
        with pytest.raises(UsageError, match="--seeds"):
            parse_seeds(text)


def test_prompts_of_a_file_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# animals\na cat\n\n  a dog \n", encoding="utf-8")
    assert read_prompts(path) == ("a cat", "a dog")
    path.write_text("# none\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no prompt"):
        read_prompts(path)
    with pytest.raises(ArtifactError, match="one a line"):
        read_prompts(tmp_path / "missing.txt")


def test_names_sort_as_the_grid_runs() -> None:
    choices = Choices(tuple("abcdefghijk"), (2, 10), (1.0, 7.5, 12.0), (4, 16))
    variants = choices.variants()
    names = [str(file_name(OUT, one, 11)) for one in variants]
    assert len(set(names)) == 11 * 2 * 3 * 2 and names == sorted(names)
    assert names[0] == "out-01-seed-02-guidance-01.0-steps-04.png"
    assert str(file_name(OUT, variants[0], 11, "bundle")) == "out-01-bundle-seed-02-guidance-01.0-steps-04.png"


def test_what_has_one_value_is_left_out() -> None:
    (alone,) = Choices(("a cat",), (3,), (None,), (None,)).variants()
    assert file_name(OUT, alone, 1) == OUT and alone.column == "seed 3"
    two = Choices(("a", "b")).variants()
    assert [str(file_name(OUT, one, 2)) for one in two] == ["out-1.png", "out-2.png"]
    assert [one.column for one in Choices(("a",), (0,), (None,), (4, 8)).variants()] == ["4 steps", "8 steps"]


def test_too_many_are_a_slip() -> None:
    with pytest.raises(UsageError, match="20000 pictures are too many"):
        Choices(("a", "b"), tuple(range(10_000))).variants()


def test_the_sheet_has_a_row_a_prompt_and_bundle_and_a_column_a_variant() -> None:
    variants = Choices(("a cat", "a dog"), (0, 1)).variants()
    drawn = [(bundle, one, picture(100 + 10 * index + 5 * side)) for side, bundle in enumerate("xy")
             for index, one in enumerate(variants)]  # fmt: skip
    sheet = grid_sheet(drawn).pixels
    # Cells from above: cat by x, cat by y, dog by x, dog by y.
    top, height = sheet.shape[0] - 4 * 34, 34
    for row, values in enumerate([(100, 110), (105, 115), (120, 130), (125, 135)]):
        line = sheet[top + row * height + 16]
        assert [value for value in values if (line == value).all(axis=1).sum() >= 32] == list(values)


def test_pictures_of_two_sizes_make_no_sheet() -> None:
    one: Variant
    (one, other) = Choices(("a",), (0, 1)).variants()
    with pytest.raises(UsageError, match="found 16x32, 32x32"):
        grid_sheet([("x", one, picture(0)), ("x", other, picture(0, 16))])
