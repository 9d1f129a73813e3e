"""Results for people: tables of figures as plain text, and figures in units that can be read.

A record's `__str__` joins its tables; the command line prints the same ones with bold titles and to the terminal's
width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Unicode's controls, halves of a pair, and line and paragraph separators.
_ACTING = ("Cc", "Cs", "Zl", "Zp")
# What turns the direction of the writing around it.
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# Text has no width of its own; the widest table of ours fits in this.
TEXT_WIDTH = 132


@dataclass(frozen=True)
class Table:
    """A table with a title. Columns are numbers, right-aligned, but for those listed in `text_columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[int, ...] = (0,)
    caption: str | None = None

    def print_to(self, console: Console) -> None:
        """Draw it on a console of rich's."""
        from rich import box
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(self.columns):
            drawn.add_column(Text(escaped(column)), justify="left" if index in self.text_columns else "right")
        for row in self.rows:
            drawn.add_row(*(Text(escaped(cell)) for cell in row))
        # Not the table's own title and caption: rich wraps those to the table's width.
        console.print(Text(escaped(self.title), style="bold"))
        console.print(drawn, Text(escaped(self.caption), style="dim") if self.caption is not None else "", sep="")

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        text = StringIO()
        self.print_to(Console(file=text, highlight=False, width=TEXT_WIDTH, color_system=None))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).rstrip()


def as_text(parts: Iterable[Table | str]) -> str:
    """Tables and paragraphs below each other."""
    return "\n\n".join(map(str, parts))


def escaped(text: str, kept: str = "\n\t") -> str:
    """A text that may hold others' words (a file's name, a prompt, a value of a file) for a terminal, where it must not
    act: controls and turns of direction are written as JSON's escapes but for those in `kept`."""
    if text.isprintable():
        return text
    return "".join(
        f"\\u{ord(character):04x}"
        if character not in kept and (character in _TURNING or unicodedata.category(character) in _ACTING)
        else character
        for character in text
    )


def in_bytes(count: int | float | None) -> str:
    """A size for people, in decimal units as operating systems and app stores count."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def in_milliseconds(milliseconds: float | None) -> str:
    """A duration in milliseconds for people: three significant digits or so."""
    if milliseconds is None:
        return "-"
    if milliseconds >= 100:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds:.1f} ms" if milliseconds >= 10 else f"{milliseconds:.2f} ms"


def in_seconds(milliseconds: float) -> str:
    """A duration in seconds for people, in milliseconds where it is less than one."""
    return f"{milliseconds / 1e3:.2f} s" if milliseconds >= 1e3 else in_milliseconds(milliseconds)


def shortened(text: str, length: int = 40) -> str:
    """A text on one line in the room that a table or a progress bar has for it."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= length else f"{printable[: length - 3]}..."
