"""Runs a command and watches its process tree: wall and processor time, and memory, anonymous and file-backed apart.

File-backed pages (mapped checkpoints, mapped weight files) can be dropped by the kernel at any time; anonymous memory
is what must fit. Shared pages count once per process.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    """One run. Memory is in bytes, the peak over samples of the sum over all processes of the tree."""

    seconds: float
    processor_seconds: float
    peak_anonymous: int
    peak_file: int
    output: str


def run_measured(command: Sequence[str | Path]) -> Measured:
    """Run `command` to its end; its stderr is this process's. Exits with its code if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    watcher = _Watcher(process.pid)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    watcher.stop()
    if process.returncode != 0:
        print(f"{' '.join(map(str, command))} ended with code {process.returncode}", file=sys.stderr)
        sys.exit(process.returncode)
    return Measured(seconds, watcher.processor_seconds, watcher.peak_anonymous, watcher.peak_file, output)


class _Watcher(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_anonymous = self.peak_file = 0
        self._processor: dict[int, float] = {}
        self._root = psutil.Process(pid)
        self._ended = threading.Event()

    @property
    def processor_seconds(self) -> float:
        """User and system time of every process seen, up to its last sample."""
        return sum(self._processor.values())

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._ended.wait(INTERVAL_SECONDS):
            self._sample()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()

    def _sample(self) -> None:
        anonymous = file = 0
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
                times = process.cpu_times()
            except (psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError, ProcessLookupError):
                continue
            sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
            anonymous += _bytes(sizes, "RssAnon")
            file += _bytes(sizes, "RssFile") + _bytes(sizes, "RssShmem")
            self._processor[process.pid] = times.user + times.system
        self.peak_anonymous = max(self.peak_anonymous, anonymous)
        self.peak_file = max(self.peak_file, file)


def _bytes(sizes: dict[str, str], key: str) -> int:
    return int(sizes[key].split()[0]) * 1024 if key in sizes else 0
