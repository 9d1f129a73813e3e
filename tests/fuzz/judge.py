"""What may come of a broken file: a result, or one sentence with its exit code; soon, and in little memory."""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sfmobile.cli.main import BUG, explain
from sfmobile.errors import SfmobileError

Fault = Literal["bug", "hang", "memory", "sentence", "code"]
SECONDS = 20
MEMORY_BYTES = 2 << 30
MOST_CHARACTERS = 2000


class _TooLongError(BaseException):
    """Not an `Exception`: nothing on the way may catch it."""


@dataclass(frozen=True)
class Verdict:
    """code: the exit code it would have been, 0 for a result. fault: what is wrong with that. where: the place."""

    code: int
    fault: Fault | None = None
    where: str = ""


def judge(read: Callable[[], object], codes: tuple[int, ...]) -> Verdict:
    """Let `read` run, and say whether it ended as it may; `codes`: exit codes that a broken file may have."""
    try:
        with _limited():
            read()
    except _TooLongError as error:
        return Verdict(BUG, "hang", _place(error))
    except MemoryError as error:
        return Verdict(3, "memory", _place(error))
    except SfmobileError as error:
        sentence = str(error)
        plain = "\n" not in sentence and len(sentence) < MOST_CHARACTERS
        if not plain:
            return Verdict(error.exit_code, "sentence", f"{_place(error)}: {sentence[:200]!r}")
        if error.exit_code not in codes:
            return Verdict(error.exit_code, "code", f"{_place(error)}: {sentence[:300]}")
        return Verdict(error.exit_code)
    except Exception as error:
        _, code = explain(error)
        return Verdict(
            code, "bug" if code == BUG else "code", f"{_place(error)}: {type(error).__name__}: {error}"[:400]
        )
    return Verdict(0)


@contextmanager
def _limited() -> Iterator[None]:
    def ended(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """From now on this process gets no more than `MEMORY_BYTES` beyond what it has; for a process of its own."""
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, resource.RLIM_INFINITY))


def _place(error: BaseException) -> str:
    """The last line of ours on the way to an error."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "sfmobile/" in frame.filename]
    if not ours:
        return "?"
    return f"{ours[-1].filename.rpartition('sfmobile/')[2]}:{ours[-1].lineno}"
