from __future__ import annotations

import io
import json
import math
import time

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


def test_lines_say_what_takes_long_and_nothing_of_what_is_quick(capsys) -> None:
    now = 0.0
    lines = console.Lines(lambda: now)
    lines.start("Opening glyph")
    lines.start("unet: tracing")
    now = 4.9
    lines.start("unet: converting")
    assert capsys.readouterr() == ("", "")
    now = 6.0
    lines.start("unet: palettizing", 200)
    lines.start("unet: palettizing", 200)
    now = 20.0
    lines.advance(50)
    assert capsys.readouterr().err == "[6 s] unet: palettizing\n"
    now = 40.0
    lines.advance(50)
    lines.advance()
    lines.note("unet: 5.8 MB")
    assert capsys.readouterr().err == "[40 s] unet: palettizing, 50%\nunet: 5.8 MB\n"


def test_where_stderr_is_no_terminal_lines_are_written(capsys) -> None:
    with console.watching() as observer:
        assert isinstance(observer, console.Lines)
    assert capsys.readouterr() == ("", "")


ACTING = "[bold]a[/x] \x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnp.exe \udcff\u2028"
SHOWN = r"[bold]a[/x] \u001b[31mred\u001b]0;title\u0007 \u009b2J \u202egnp.exe \udcff\u2028"


def test_what_others_wrote_is_shown_and_does_not_act(capsys) -> None:
    console.print_table(ACTING, (ACTING,), [(ACTING,)], caption=ACTING)
    console.print_text(ACTING)
    console.print_json({ACTING: ACTING})
    console.note(ACTING)
    console.fail(f"{ACTING}\nerror: another")
    out, err = capsys.readouterr()
    assert out.count(SHOWN) == 7 and err.count(SHOWN) == 2
    assert json.loads(out[out.index("{") :]) == {ACTING: ACTING}
    assert len(err.splitlines()) == 2 and "\\u000aerror: another" in err
    assert all(character.isprintable() or character in "\n\t" for character in out + err)


def test_brackets_and_controls_pass_through_bars_and_spinners_of_a_terminal(monkeypatch) -> None:
    from rich.console import Console

    written = io.StringIO()
    monkeypatch.setattr(
        console, "stderr", lambda: Console(file=written, force_terminal=True, width=200, color_system=None)
    )
    with console.status(ACTING):
        time.sleep(0.1)
    with console.watching() as observer:
        observer.start(ACTING, 2)
        observer.advance()
    assert SHOWN in written.getvalue() and "\x07" not in written.getvalue()


def test_what_is_written_by_people_stays_as_it_is(capsys) -> None:
    text = "a\tb — é, 红苹果 🍎 👨\u200d👩\u200d👧 \u00a0 שלום\nsecond line"
    console.print_text(text)
    assert capsys.readouterr().out == text + "\n"
