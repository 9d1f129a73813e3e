"""What a command says and where: the result on stdout (a table, or JSON alone), log and progress on stderr.

Everything that is printed passes here or through `Table`, where what could act on a terminal is escaped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sfmobile.observer import Observer, Unit
from sfmobile.tables import TEXT_WIDTH, Table, escaped

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.progress import Progress, Task, TaskID


@lru_cache(maxsize=1)
def _stderr(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """The console of log lines and progress bars."""
    return _stderr(sys.stderr)


def stdout() -> Console:
    """The console of results: as wide as the terminal, or `TEXT_WIDTH` columns where it isn't one."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else TEXT_WIDTH)


def note(message: str) -> None:
    """One log line on stderr; `message` is plain text, not markup."""
    stderr().print(escaped(message), markup=False)


def fail(message: str) -> None:
    """The one sentence of an error on stderr."""
    from rich.text import Text

    stderr().print(Text.assemble(("error: ", "bold red"), escaped(message, kept="")))


def print_json(result: BaseModel | dict[str, Any] | list[Any]) -> None:
    """The result as JSON, alone on stdout; strictly standard (no NaN, no Infinity)."""
    import json

    value = result if isinstance(result, (dict, list)) else result.model_dump(mode="json")
    sys.stdout.write(escaped(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def print_text(text: str) -> None:
    """A plain line of the result on stdout."""
    sys.stdout.write(escaped(text) + "\n")


def print_parts(*parts: Table | str) -> None:
    """Tables and plain sentences of the result on stdout, a table apart from the sentence before it."""
    before: Table | str | None = None
    for part in parts:
        if isinstance(part, str):
            print_text(part)
        else:
            if isinstance(before, str):
                print_text("")
            part.print_to(stdout())
        before = part


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: Sequence[int] = (0,),
    caption: str | None = None,
) -> None:
    """A table on stdout. Columns are numbers, right-aligned, but for those listed in `text_columns`."""
    print_parts(Table(title, tuple(columns), tuple(map(tuple, rows)), tuple(text_columns), caption))


class Bar(Observer):
    """Draws what is being done as one bar, and writes notes as log lines."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        """A new bar in place of the one before."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(escaped(what), total=total, unit=unit)

    def advance(self, units: int = 1) -> None:
        """The bar grows."""
        if self._task is not None:
            self._bars.advance(self._task, units)

    def note(self, message: str) -> None:
        """A line on stderr."""
        note(message)


class Lines(Observer):
    """Where stderr is no terminal: a line for each piece of work once something takes long, and now and then how far
    it is. What is done in an instant says nothing."""

    # Seconds before the first line, and between two of one piece of work.
    PATIENCE = 5.0
    INTERVAL = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = self._last = clock()
        self._what = ""
        self._done, self._total = 0, 0

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        """A line, unless it repeats the one before or everything is still quick."""
        self._done, self._total = 0, total or 0
        now = self._clock()
        if what != self._what and now - self._begun >= self.PATIENCE:
            note(f"[{now - self._begun:.0f} s] {what}")
            self._last = now
        self._what = what

    def advance(self, units: int = 1) -> None:
        """A line if the last one is long ago."""
        self._done += units
        now = self._clock()
        if now - self._last >= self.INTERVAL:
            share = f", {self._done / self._total:.0%}" if self._total else ""
            note(f"[{now - self._begun:.0f} s] {self._what}{share}")
            self._last = now

    def note(self, message: str) -> None:
        """A line on stderr."""
        note(message)


@contextmanager
def watching() -> Iterator[Observer]:
    """An observer for a function that takes long: a bar that is gone when the block ends, or lines where stderr is no
    terminal."""
    if not stderr().is_terminal:
        yield Lines()
        return
    with progress() as bars:
        yield Bar(bars)


@contextmanager
def progress(remaining: bool = False) -> Iterator[Progress]:
    """Progress bars on stderr, gone when done; silent where stderr isn't a terminal. `remaining` adds the time left."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Count(ProgressColumn):
        """How much of how much; nothing where that can't be told."""

        def __init__(self) -> None:
            super().__init__()
            self._kinds: dict[str, ProgressColumn] = {"bytes": DownloadColumn(), "pieces": MofNCompleteColumn()}

        def render(self, task: Task) -> Text:
            if task.total is None:
                return Text()
            shown = self._kinds[task.fields.get("unit", "pieces")].render(task)
            return shown if isinstance(shown, Text) else Text(str(shown))

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        Count(),
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
    from rich.text import Text

    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(Text(escaped(message))):
        yield
