"""What a command says and where: the result on stdout (a table, or JSON alone), log and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.progress import Progress

# A pipe or a file has no width of its own; the widest table of ours fits in this.
PIPED_WIDTH = 132


@lru_cache(maxsize=1)
def _stderr(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """The console of log lines and progress bars."""
    return _stderr(sys.stderr)


def stdout() -> Console:
    """The console of results: as wide as the terminal, or `PIPED_WIDTH` columns where it isn't one."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def note(message: str) -> None:
    """One log line on stderr; `message` is plain text, not markup."""
    stderr().print(message, markup=False)


def fail(message: str) -> None:
    """The one sentence of an error on stderr."""
    from rich.text import Text

    stderr().print(Text.assemble(("error: ", "bold red"), message))


def print_json(result: BaseModel | dict[str, Any] | list[Any]) -> None:
    """The result as JSON, alone on stdout; strictly standard (no NaN, no Infinity)."""
    import json

    value = result if isinstance(result, (dict, list)) else result.model_dump(mode="json")
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """A plain line of the result on stdout."""
    sys.stdout.write(text + "\n")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: Sequence[int] = (0,),
    caption: str | None = None,
) -> None:
    """A table on stdout. Columns are numbers, right-aligned, but for those listed in `text_columns`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if index in text_columns else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = stdout()
    # Not the table's own title and caption: rich wraps those to the table's width.
    console.print(Text(title, style="bold"))
    console.print(table, Text(caption, style="dim") if caption is not None else "", sep="")


@contextmanager
def progress(in_bytes: bool = False, remaining: bool = False) -> Iterator[Progress]:
    """Progress bars on stderr, gone when done; silent where stderr isn't a terminal. `remaining` adds the time left."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if remaining else []),
        console=stderr(),
        transient=True,
        disable=not stderr().is_terminal,
    )
    with bars:
        yield bars


@contextmanager
def status(message: str) -> Iterator[None]:
    """A spinner on stderr around work whose length isn't known."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(message):
        yield


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


def in_milliseconds(seconds: float | None) -> str:
    """A duration for people: milliseconds with three significant digits or so."""
    if seconds is None:
        return "-"
    milliseconds = seconds * 1e3
    if milliseconds >= 100:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds:.1f} ms" if milliseconds >= 10 else f"{milliseconds:.2f} ms"
