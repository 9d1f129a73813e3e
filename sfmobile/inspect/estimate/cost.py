"""How long a program takes on a device's Neural Engine: a roofline over fused segments. Every result is an estimate.

    segment    max(sum over kinds of 2 macs / (rate * efficiency of the kind),
                   (weights + streamed activations) / (bandwidth * fraction))  * long + overhead
    call       the sum of its segments + one dispatch for every run of operations on one unit

rate is the chip's advertised fp16 rate times a factor of the chip; bandwidth its memory's. Efficiencies, fraction,
overhead and factors are fitted to published latencies (`benchmarks/calibration.py`); the dispatch is bounded by the
shortest published one. long is 1, or more for attention over long sequences at once, by what the two forms are known
to differ. Operations that fall back to the CPU are charged their memory traffic and two dispatches,
nothing for their arithmetic: a lower bound, because no published figure tells more.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from sfmobile.files import StrictModel, read_model
from sfmobile.inspect.estimate.devices import DeviceTable, device_table

if TYPE_CHECKING:
    from sfmobile.inspect.estimate.fusion import Segment

MODEL_FILE = Path(__file__).with_name("cost_model.json")

Bound = Literal["arithmetic", "memory", "cpu"]


class Coefficients(StrictModel):
    """Fitted constants. spatial, pointwise, attention: shares of the chip's rate; bandwidth: share of the memory's.

    overhead_us: of every segment. long_queries: how many times as long segments of attention take whose scores are of
    too many queries at once. chips: factor on the advertised rate of each measured chip.
    """

    spatial: float = Field(gt=0)
    pointwise: float = Field(gt=0)
    attention: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    overhead_us: float = Field(ge=0)
    dispatch_ms: float = Field(ge=0)
    long_queries: float = Field(default=1.0, ge=1)
    chips: dict[str, float]


class ErrorSummary(StrictModel):
    """How far predictions were off, as factors beyond 1 in percent: 25 means a quarter too long, or too short alike."""

    points: int
    median_percent: float
    worst_percent: float


class FitErrors(StrictModel):
    """Errors on the points fitted, and on those left out: one point, those of one network, those of one chip."""

    fitted: ErrorSummary
    point_left_out: ErrorSummary
    network_left_out: ErrorSummary
    chip_left_out: ErrorSummary


class CostModel(StrictModel):
    """Coefficients and what they are worth."""

    version: Literal[1] = 1
    coefficients: Coefficients
    errors: FitErrors


class SegmentRow(NamedTuple):
    """Segments that cost the same, and how many there are."""

    spatial: int
    pointwise: int
    attention: int
    weight_bytes: int
    streamed_bytes: int
    fallback: bool
    repeats: int
    long: bool = False


@dataclass(frozen=True)
class Speed:
    """A chip's rates. flops_per_second: fp16, factor of the chip included; bytes_per_second: of its memory."""

    flops_per_second: float
    bytes_per_second: float


def chip_speed(chip: str, coefficients: Coefficients, table: DeviceTable | None = None) -> Speed:
    """What `chip` can do: a measured chip by its own factor, one that is like another by that one's."""
    table = table or device_table()
    base, factor = table.base_chip(chip)
    tops = table.chips[base].fp16_tops
    assert tops is not None  # base_chip stops at a chip that has one
    rate = tops * 1e12 * coefficients.chips.get(base, 1.0) * factor
    return Speed(rate, table.chips[chip].memory_gbps * 1e9)


def rows_of(segments: Iterable[Segment]) -> list[SegmentRow]:
    """Segments folded by what they cost."""
    counts = Counter(_row(segment) for segment in segments)
    return [row._replace(repeats=count) for row, count in counts.items()]


def _row(segment: Segment) -> SegmentRow:
    return SegmentRow(
        segment.macs.get("spatial", 0),
        segment.macs.get("pointwise", 0),
        segment.macs.get("attention", 0),
        segment.weight_bytes,
        segment.streamed_bytes,
        segment.fallback,
        1,
        segment.long,
    )


def row_seconds(
    row: SegmentRow, coefficients: Coefficients, speed: Speed, weight_scale: float = 1.0
) -> tuple[float, Bound]:
    """Seconds of one segment, and what bounds it. weight_scale: stored bytes of the weights against the row's."""
    traffic = row.weight_bytes * weight_scale + row.streamed_bytes
    memory = traffic / (speed.bytes_per_second * coefficients.bandwidth)
    if row.fallback:
        return memory, "cpu"
    arithmetic = (
        row.spatial / coefficients.spatial
        + row.pointwise / coefficients.pointwise
        + row.attention / coefficients.attention
    ) * (2 / speed.flops_per_second)
    overhead = coefficients.overhead_us * 1e-6
    longer = coefficients.long_queries if row.long else 1.0
    return max(arithmetic, memory) * longer + overhead, "arithmetic" if arithmetic >= memory else "memory"


def call_milliseconds(
    rows: Sequence[SegmentRow],
    coefficients: Coefficients,
    speed: Speed,
    weight_scale: float = 1.0,
    dispatches: int = 1,
) -> float:
    """Milliseconds of one call. dispatches: runs of operations on one unit."""
    seconds = sum(row.repeats * row_seconds(row, coefficients, speed, weight_scale)[0] for row in rows)
    return seconds * 1e3 + dispatches * coefficients.dispatch_ms


def runs(segments: Sequence[Segment]) -> int:
    """How many runs of segments on one unit (Neural Engine or CPU) there are: each is a dispatch."""
    switches = sum(before.fallback != after.fallback for before, after in itertools.pairwise(segments))
    return switches + 1 if segments else 0


@dataclass(frozen=True)
class BlockEstimate:
    """Estimated milliseconds of a block, by what bounds its segments."""

    block: str
    milliseconds: float
    by_bound: dict[Bound, float]


@dataclass(frozen=True)
class CallEstimate:
    """Estimated milliseconds of one call of a component: its blocks in running order, and the dispatches."""

    milliseconds: float
    dispatch_ms: float
    dispatches: int
    blocks: tuple[BlockEstimate, ...]


def estimate_call(segments: Sequence[Segment], chip: str, model: CostModel | None = None) -> CallEstimate:
    """Estimate one call of the program behind `segments` on `chip`."""
    coefficients = (model or cost_model()).coefficients
    speed = chip_speed(chip, coefficients)
    blocks: dict[str, dict[Bound, float]] = {}
    for segment in segments:
        seconds, bound = row_seconds(_row(segment), coefficients, speed)
        spent = blocks.setdefault(segment.block, {})
        spent[bound] = spent.get(bound, 0.0) + seconds * 1e3
    dispatches = runs(segments)
    estimates = tuple(BlockEstimate(block, sum(spent.values()), spent) for block, spent in blocks.items())
    dispatch = dispatches * coefficients.dispatch_ms
    return CallEstimate(sum(one.milliseconds for one in estimates) + dispatch, dispatch, dispatches, estimates)


@cache
def cost_model() -> CostModel:
    """The fitted model this version ships."""
    return read_model(MODEL_FILE, CostModel, "the cost model of sfmobile", "install sfmobile again")
