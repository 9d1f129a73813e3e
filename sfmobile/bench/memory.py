"""Peak memory of this process while something runs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sfmobile.bench.report import MemoryRecord

SAMPLING_INTERVAL_S = 0.005
PROC_STATUS = Path("/proc/self/status")


def resident_bytes() -> dict[str, int]:
    """Resident memory now: "total", and "anonymous" and "file" where the kernel tells (Linux)."""
    try:
        lines = PROC_STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        import psutil

        return {"total": int(psutil.Process().memory_info().rss)}
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssAnon", "RssFile", "RssShmem")))
    sizes = {key: int(value.split()[0]) * 1024 for key, value in fields.items()}
    return {
        "total": sizes["VmRSS"],
        "anonymous": sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0),
        "file": sizes.get("RssFile", 0),
    }


class PeakMemory:
    """Context manager that samples resident memory in a thread; `record` holds the peaks afterwards.

    A sampler can miss a peak shorter than its interval; the kernel's own high-water mark can't be used
    because it also counts what ran before.
    """

    def __init__(self, interval: float = SAMPLING_INTERVAL_S) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._before = resident_bytes()
        self._peaks = dict(self._before)

    def take(self) -> None:
        """Take one sample now."""
        for kind, size in resident_bytes().items():
            self._peaks[kind] = max(self._peaks[kind], size)

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self.take()

    def __enter__(self) -> Self:
        self._before = resident_bytes()
        self._peaks = dict(self._before)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.take()

    @property
    def record(self) -> MemoryRecord:
        """Peaks from entering to leaving (or to now)."""
        return MemoryRecord(
            before_bytes=self._before["total"],
            peak_bytes=self._peaks["total"],
            peak_anonymous_bytes=self._peaks.get("anonymous"),
            peak_file_backed_bytes=self._peaks.get("file"),
        )
