from __future__ import annotations

import json
import math

import pytest

from sfmobile.cli import console


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (6_500_000, "6.5 MB"), (2.5e12, "2500.0 GB")],
)
def test_sizes_are_decimal(count: float | None, text: str) -> None:
    assert console.in_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.00123, "1.23 ms"), (0.0456, "45.6 ms"), (0.789, "789 ms"), (12.3, "12300 ms")]
)
def test_durations_keep_three_digits(seconds: float | None, text: str) -> None:
    assert console.in_milliseconds(seconds) == text


def test_a_piped_table_is_not_cut(capsys) -> None:
    console.print_table("title", ("figure", "value"), [("x" * 100, "1")], caption="[not] markup")
    out = capsys.readouterr().out
    assert "x" * 100 in out and "[not] markup" in out


def test_json_keeps_unicode_and_refuses_what_json_has_not(capsys) -> None:
    console.print_json({"prompt": "红苹果 🍎"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"prompt": "红苹果 🍎"} and "🍎" in out
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"psnr": math.inf})


def test_progress_and_status_leave_nothing_where_stderr_is_no_terminal(capsys) -> None:
    with console.progress() as bars, console.status("working"):
        bars.advance(bars.add_task("steps", total=2))
    assert capsys.readouterr() == ("", "")
