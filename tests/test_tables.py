"""Tables as text, and figures in units that can be read."""

from __future__ import annotations

import pytest

from sfmobile.tables import TEXT_WIDTH, Table, as_text, in_bytes, in_milliseconds, shortened


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (6_500_000, "6.5 MB"), (2.5e12, "2500.0 GB")],
)
def test_sizes_are_decimal(count: float | None, text: str) -> None:
    assert in_bytes(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(None, "-"), (1.23, "1.23 ms"), (45.6, "45.6 ms"), (789, "789 ms"), (12300, "12300 ms")]
)
def test_durations_keep_three_digits(milliseconds: float | None, text: str) -> None:
    assert in_milliseconds(milliseconds) == text


def test_a_text_is_cut_to_one_line_of_its_room() -> None:
    assert shortened("a\nb\x1b[31m") == "a b [31m"
    assert shortened("x" * 41) == "x" * 37 + "..." and shortened("x" * 40) == "x" * 40


def test_a_table_is_plain_text_with_numbers_to_the_right() -> None:
    table = Table("[red]title", ("name", "size"), (("a", "1 kB"), ("longer", "10 kB")), caption="[not] markup")
    lines = str(table).splitlines()
    assert lines[0] == "[red]title" and lines[-1] == "[not] markup"
    assert any(line.split() == ["longer", "10", "kB"] for line in lines)
    starts = {line.rstrip().rfind("kB") for line in lines if "kB" in line}
    assert len(starts) == 1
    assert "\x1b" not in str(table) and all(line == line.rstrip() for line in lines)


def test_a_wide_table_is_not_cut_below_the_text_width() -> None:
    cell = "x" * (TEXT_WIDTH - 20)
    assert cell in str(Table("title", ("figure", "value"), ((cell, "1"),)))


def test_parts_stand_apart() -> None:
    table = Table("title", ("a",), (("1",),))
    assert as_text(["Passed.", table, "A sentence."]).split("\n\n")[0] == "Passed."
    assert as_text([table, "A sentence."]).endswith("\n\nA sentence.")
