from __future__ import annotations

import json
import math

import pytest

from sfmobile.cli import console


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
