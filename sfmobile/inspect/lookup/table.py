"""The lookup table T of SnapFusion's Algorithm 1: milliseconds of every block, measured or estimated one by one.

The latency of a layout is the sum over its blocks (arXiv 2306.00980, section 3.2), so that a search can tell what
removing or adding a block is worth without exporting a whole model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field

from sfmobile.bench.records import MachineRecord, ProducerRecord, now
from sfmobile.errors import UsageError
from sfmobile.files import StrictModel, make_folder, read_model, write_json
from sfmobile.inspect.lookup.block_keys import BlockKey, BlockOptions, layout_blocks
from sfmobile.inspect.lookup.block_packages import block_inputs, block_package, unet_package
from sfmobile.inspect.lookup.timers import BlockTiming, Timer

if TYPE_CHECKING:
    from sfmobile.bundle.manifest import TensorRecord
    from sfmobile.nets.layout import UNetLayout

TABLE_VERSION: Final = 1
# An operation on next to nothing: what a call costs on a runtime whatever it computes.
EMPTY = BlockKey(kind="empty", in_channels=1, channels=1, height=1, width=32, batch=1)
MOST_MISSING = 4


class BlockEntry(StrictModel):
    """A block of the table. sha256: of its key, and the name of its package in the cache."""

    key: BlockKey
    sha256: str
    timing: BlockTiming


class LayoutCheck(StrictModel):
    """A whole UNet beside the sum of its blocks. measured_ms is null where it wasn't measured."""

    layout: str
    blocks: int
    predicted_ms: float
    measured_ms: float | None = None

    @property
    def error_percent(self) -> float | None:
        """How far the prediction is off, in percent of what was measured."""
        return None if self.measured_ms is None else (self.predicted_ms / self.measured_ms - 1) * 100


class LookupTable(StrictModel):
    """Timings by content hash, and where they come from.

    label: "measured" or "estimated". overhead_ms: of a call that computes nothing; it is part of every timing, and is
    counted once in the latency of a layout. machine: what measured; null for an estimate of `device`.
    """

    kind: Literal["lookup"] = "lookup"
    version: Literal[1] = TABLE_VERSION
    created_at: datetime
    producer: ProducerRecord
    label: Literal["measured", "estimated"]
    runtime: str
    device: str | None
    machine: MachineRecord | None
    options: BlockOptions
    overhead_ms: float = Field(ge=0)
    entries: tuple[BlockEntry, ...]
    checks: tuple[LayoutCheck, ...] = ()

    def missing(self, layout: UNetLayout) -> list[BlockKey]:
        """Blocks of a layout that the table lacks, each once."""
        known = {entry.sha256 for entry in self.entries}
        keys = dict.fromkeys(key for _, key in layout_blocks(layout, self.options))
        return [key for key in keys if key.sha256 not in known]

    def block_times(self, layout: UNetLayout) -> dict[str, float]:
        """Milliseconds of every block of a layout by name, without the call's overhead.

        Raises `UsageError` naming the blocks that have to be measured first.
        """
        missing = self.missing(layout)
        if missing:
            named = "; ".join(map(str, missing[:MOST_MISSING]))
            more = f" and {len(missing) - MOST_MISSING} more" if len(missing) > MOST_MISSING else ""
            raise UsageError(
                f"The lookup table of {self.runtime} lacks {len(missing)} blocks of layout '{layout.name}': "
                f"{named}{more}; measure them with `sfmobile profile-blocks`, which keeps what is there."
            )
        times = {entry.sha256: entry.timing.milliseconds for entry in self.entries}
        return {
            name: max(times[key.sha256] - self.overhead_ms, 0.0) for name, key in layout_blocks(layout, self.options)
        }

    def latency(self, layout: UNetLayout) -> float:
        """Predicted milliseconds of one call of a layout's UNet. Raises `UsageError` as `block_times` does."""
        return sum(self.block_times(layout).values()) + self.overhead_ms

    def write(self, path: Path) -> None:
        """Write the table whole or not at all, making its folder if need be. Raises as `files.atomic_write` does."""
        make_folder(path.parent)
        write_json(path, self, indent=1)


def read_table(path: Path) -> LookupTable:
    """Read a table. Raises `ArtifactError` if it is none, or from a later version."""
    mend = "write one with `sfmobile profile-blocks`"
    return read_model(path, LookupTable, "a lookup table", mend, version=TABLE_VERSION)


def build_table(
    layouts: Iterable[UNetLayout],
    options: BlockOptions,
    timer: Timer,
    cache: Path,
    *,
    previous: LookupTable | None = None,
    advance: Callable[[str], None] = lambda name: None,
    producer: ProducerRecord | None = None,
    whole: bool = False,
) -> LookupTable:
    """Time every distinct block of `layouts`; what `previous` (of the same timer and options) holds is kept.

    advance: told what was timed. whole: also time each layout's UNet in one piece, to compare with its sum.
    Raises `UsageError` if `previous` comes from another timer or other options.
    """
    if previous is not None and (previous.runtime, previous.options) != (timer.name, options):
        raise UsageError(
            f"The table holds timings of {previous.runtime} with {_shown(previous.options)}, not of {timer.name} with "
            f"{_shown(options)}; write to another file."
        )
    kept = {} if previous is None else {entry.sha256: entry for entry in previous.entries}
    overhead = timer.time(block_package(EMPTY, cache), _inputs(EMPTY)).milliseconds if previous is None else None
    entries: dict[str, BlockEntry] = dict(kept)
    named = list(layouts)
    for key in dict.fromkeys(key for layout in named for _, key in layout_blocks(layout, options)):
        if key.sha256 not in entries:
            timing = timer.time(block_package(key, cache), _inputs(key))
            entries[key.sha256] = BlockEntry(key=key, sha256=key.sha256, timing=timing)
        advance(str(key))
    table = LookupTable(
        created_at=now(),
        producer=producer or ProducerRecord(),
        label=timer.label,
        runtime=timer.name,
        device=timer.device,
        machine=timer.machine,
        options=options,
        overhead_ms=previous.overhead_ms if previous is not None else overhead or 0.0,
        entries=tuple(entries.values()),
    )
    checks = [
        LayoutCheck(
            layout=layout.name,
            blocks=len(layout_blocks(layout, options)),
            predicted_ms=table.latency(layout),
            measured_ms=_whole(layout, options, timer) if whole else None,
        )
        for layout in named
    ]
    return table.model_copy(update={"checks": tuple(checks)})


def _whole(layout: UNetLayout, options: BlockOptions, timer: Timer) -> float:
    """Milliseconds of the whole UNet in one package."""
    with tempfile.TemporaryDirectory() as folder:
        package, records = unet_package(layout, options, Path(folder))
        return timer.time(package, random_inputs(records)).milliseconds


class GrowingTable:
    """A table that times what it lacks when a layout asks for it, and is written behind each such time.

    Without a timer it holds what it holds: `latency` then raises `UsageError` naming the blocks to measure.
    """

    def __init__(
        self, path: Path, table: LookupTable | None, options: BlockOptions, timer: Timer | None, cache: Path
    ) -> None:
        """table: what `path` holds, or None for a new one, which needs a timer."""
        if table is None and timer is None:
            raise UsageError(
                f"There is no lookup table '{path}'; make it with `sfmobile profile-blocks`, or name what times blocks."
            )
        self.path, self.table, self.options, self.timer, self.cache = path, table, options, timer, cache

    def latency(self, layout: UNetLayout) -> float:
        """Predicted milliseconds of one call of a layout's UNet."""
        if self.timer is not None and (self.table is None or self.table.missing(layout)):
            checks = () if self.table is None else self.table.checks
            grown = build_table([layout], self.options, self.timer, self.cache, previous=self.table)
            self.table = grown.model_copy(update={"checks": checks})
            self.table.write(self.path)
        assert self.table is not None
        return self.table.latency(layout)


def count_blocks(layouts: Iterable[UNetLayout], options: BlockOptions) -> int:
    """How often `build_table` advances."""
    return len({key for layout in layouts for _, key in layout_blocks(layout, options)})


def _shown(options: BlockOptions) -> str:
    bits = "fp16" if options.bits is None else f"{options.bits} bits"
    return f"{options.height}x{options.width}, batch {options.batch}, {options.attention}, {bits}, {options.target}"


def _inputs(key: BlockKey) -> dict[str, np.ndarray]:
    return random_inputs(block_inputs(key))


def random_inputs(records: Iterable[TensorRecord]) -> dict[str, np.ndarray]:
    """Seeded noise of the records' shapes, float32."""
    random = np.random.default_rng(0)
    return {record.name: random.standard_normal(record.shape).astype(np.float32) for record in records}
