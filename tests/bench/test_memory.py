from __future__ import annotations

import mmap
from pathlib import Path

from sfmobile.bench import memory
from sfmobile.bench.memory import PeakMemory, resident_bytes

MEGABYTE = 1 << 20


def test_a_short_lived_allocation_is_seen_although_it_is_gone_at_the_end() -> None:
    with PeakMemory(interval=0.001) as peak:
        block = mmap.mmap(-1, 64 * MEGABYTE)
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        peak.take()
        block.close()
    assert peak.record.peak_bytes - peak.record.before_bytes >= 60 * MEGABYTE


def test_file_backed_pages_are_told_apart_where_the_kernel_does(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(32 * MEGABYTE))
    with PeakMemory(interval=0.001) as peak, path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(mapped[page] for page in range(0, len(mapped), mmap.PAGESIZE)) == 0
        peak.take()
        mapped.close()
    record = peak.record
    if "file" not in resident_bytes():
        assert record.peak_file_backed_bytes is None and record.peak_anonymous_bytes is None
        return
    assert record.peak_file_backed_bytes is not None and record.peak_anonymous_bytes is not None
    assert record.peak_file_backed_bytes >= 30 * MEGABYTE
    assert record.peak_bytes <= record.peak_anonymous_bytes + record.peak_file_backed_bytes


def test_without_the_kernels_file_the_total_still_comes(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "PROC_STATUS", tmp_path / "missing")
    with PeakMemory() as peak:
        pass
    assert peak.record.peak_bytes >= peak.record.before_bytes > MEGABYTE
    assert peak.record.peak_anonymous_bytes is None
