"""When each thread of an export ran, and on which core: one process watched from inside, drawn as a picture.

    python -m benchmarks.timeline CHECKPOINT PICTURE.png [--bits 6] [--component unet]

Every 20 ms the kernel is asked how long each thread has run and where. A row is a thread; a column of a row is as tall
as the share of that time in which the thread ran, in the colour of its core. Threads that never ran for 0.1 s are left
out. The phases above are those of the export's progress. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

from sfmobile.observer import Observer, Unit

INTERVAL_SECONDS = 0.02
LEAST_SECONDS = 0.1
# Of a core, by its number; more cores than colours begin anew.
COLOURS = ((43, 111, 168), (214, 116, 36), (72, 140, 80), (150, 88, 160))
LEFT, TOP, ROW, WIDTH = 150, 46, 44, 1000
# Fields of /proc/PID/task/TID/stat behind the name in brackets, counted from 0: the core that a thread last ran on.
CORE_FIELD = 36


@dataclass(frozen=True)
class Ran:
    """A thread ran for `seconds` of the interval that ended at `at` (seconds since the beginning), on `core`."""

    at: float
    seconds: float
    core: int


@dataclass
class Timeline(Observer):
    """Phases of an export and, between `start` and `stop` of the watching thread, what every thread of it did."""

    phases: list[tuple[float, str]] = field(default_factory=list)
    threads: dict[str, list[Ran]] = field(default_factory=lambda: defaultdict(list))
    begun: float = field(default_factory=time.perf_counter)
    ended: float = 0.0

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        """A phase begins."""
        self.phases.append((time.perf_counter() - self.begun, what))

    def watch(self, over: threading.Event) -> None:
        """Look at all threads until `over`."""
        before: dict[int, int] = {}
        own = threading.get_native_id()
        while not over.wait(INTERVAL_SECONDS):
            at = time.perf_counter() - self.begun
            names = {thread.native_id: thread.name for thread in threading.enumerate()}
            for folder in Path("/proc/self/task").iterdir():
                number = int(folder.name)
                try:
                    run = int((folder / "schedstat").read_text().split()[0])
                    core = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[CORE_FIELD])
                except (OSError, IndexError):  # It has ended.
                    continue
                spent = (run - before.get(number, run)) / 1e9
                before[number] = run
                if number != own and spent > 0:
                    # Threads of libraries have no name here.
                    self.threads[names.get(number, f"library's {number}")].append(Ran(at, spent, core))
        self.ended = time.perf_counter() - self.begun

    @property
    def busy(self) -> float:
        """Cores at work on average."""
        return sum(one.seconds for rows in self.threads.values() for one in rows) / self.ended


def main() -> int:
    """Export, watch, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--component", action="append")
    options = parser.parse_args()
    timeline = Timeline()
    over = threading.Event()
    watcher = threading.Thread(target=timeline.watch, args=(over,))
    watcher.start()
    timeline.start("start")
    import sfmobile

    with tempfile.TemporaryDirectory(dir=options.picture.absolute().parent) as folder:
        sfmobile.export(
            options.checkpoint,
            Path(folder) / "bundle",
            bits=options.bits,
            component=options.component,
            golden=False,
            observer=timeline,
        )
        over.set()
        watcher.join()
    draw(timeline).save(options.picture)
    print(f"{timeline.ended:.1f} s, {timeline.busy:.2f} cores at work on average")
    return 0


def draw(timeline: Timeline) -> Image.Image:
    """The picture."""
    rows = {name: rows for name, rows in timeline.threads.items() if sum(one.seconds for one in rows) >= LEAST_SECONDS}
    image = Image.new("RGB", (LEFT + WIDTH + 20, TOP + ROW * len(rows) + 24), "white")
    pen = ImageDraw.Draw(image)

    def across(seconds: float) -> float:
        return LEFT + WIDTH * seconds / timeline.ended

    for index, (at, what) in enumerate(timeline.phases):
        pen.line([(across(at), 14), (across(at), image.height - 20)], (200, 200, 200))
        pen.text((across(at) + 3, 4 + 18 * (index % 2)), what, (60, 60, 60), font_size=12)
    for row, (name, ran) in enumerate(rows.items()):
        bottom = TOP + ROW * (row + 1) - 6
        pen.text((6, bottom - 24), name, (0, 0, 0), font_size=13)
        pen.line([(LEFT, bottom), (LEFT + WIDTH, bottom)], (160, 160, 160))
        for one in ran:
            height = (ROW - 10) * min(1.0, one.seconds / INTERVAL_SECONDS)
            left, right = across(one.at - INTERVAL_SECONDS), across(one.at)
            pen.rectangle((left, bottom - height, max(right, left + 1), bottom), COLOURS[one.core % len(COLOURS)])
    for second in range(int(timeline.ended) + 1):
        pen.text((across(second), image.height - 18), f"{second} s", (90, 90, 90), font_size=11)
    return image


if __name__ == "__main__":
    sys.exit(main())
