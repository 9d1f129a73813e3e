"""Crash points: work that is done again and again, each time in a process that stops one file operation later.

A kill at a random moment rarely meets the moment that matters; these meet each one. The process stops before the
operation, without any `finally`, as by `kill -9`.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Of Python's audit events those that change what is on the disk, with the places of their paths and folders.
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
}
WRITES = os.O_WRONLY | os.O_RDWR
STOPPED, FAILED = 9, 70


@dataclass(frozen=True)
class End:
    """Where a process was stopped, and what it left: `operation` was about to be done in `folder`."""

    number: int
    operation: str
    folder: Path


def crash_points(
    root: Path, prepare: Callable[[Path], None], work: Callable[[Path], object], *, every: int = 1, most: int = 400
) -> list[End]:
    """Do `work(folder)` in folders below `root` which all begin as `prepare` leaves them, stopped at each operation.

    every: place only each so manieth point. Work that ends unstopped is the last and isn't listed; it must not fail.
    """
    start = root / "start"
    start.mkdir(parents=True)
    prepare(start)
    ends: list[End] = []
    for number in range(1, most + 1, every):
        folder = root / f"stopped-{number}"
        shutil.copytree(start, folder, symlinks=True)
        stopped, operation = _stopped(folder, work, number)
        if not stopped:
            shutil.rmtree(folder)
            return ends
        ends.append(End(number, operation.replace(str(folder), ""), folder))
    raise AssertionError(f"the work still goes on after {most} operations")


def _stopped(folder: Path, work: Callable[[Path], object], number: int) -> tuple[bool, str]:
    """Whether the work met its `number`th operation, and which that was."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stop_before(folder, number, writing)
            work(folder)
            os._exit(0)
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
            os._exit(FAILED)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, STOPPED), f"operation {number}: exit {code}\n{said}"
    return code == STOPPED, said


def stop_before(folder: Path, number: int, told: int) -> None:
    """Let this process stop before its `number`th operation below `folder`, and write to `told` which that was."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        paths = [path for path in _changed(event, arguments) if path.startswith(str(folder))]
        if paths:
            count += 1
            if count == number:
                os.write(told, f"{event} {' '.join(paths)}".encode())
                os._exit(STOPPED)

    sys.addaudithook(watch)


def _changed(event: str, arguments: tuple[object, ...]) -> list[str]:
    """The paths that an operation changes."""
    if event == "open":
        path, _, flags = arguments
        written = isinstance(path, (str, bytes, os.PathLike)) and isinstance(flags, int) and flags & WRITES
        return [os.fsdecode(path)] if written and isinstance(path, (str, bytes, os.PathLike)) else []
    paths = []
    for path_place, folder_place in CHANGES.get(event, ()):
        path = arguments[path_place]
        if not isinstance(path, (str, bytes, os.PathLike)):
            continue
        name, above = os.fsdecode(path), None if folder_place is None else arguments[folder_place]
        if isinstance(above, int) and above >= 0:
            name = str(Path(f"/proc/self/fd/{above}").readlink() / name)
        paths.append(name)
    return paths
