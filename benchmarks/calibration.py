"""Fits the cost model to published latencies, and measures it on the ones it didn't see.

The unknowns are logarithms: one efficiency and how much each of three kinds of products differs from it, the usable
share of the memory bandwidth, the overhead of a segment, and a factor per measured chip. They minimise the squared
relative errors (in units of 10 %) plus a prior that keeps them near what is plausible where the points say little: the
kinds differ little (held loosely together, networks left out are predicted half as badly as with three free
efficiencies), chips reach about what is advertised.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from sfmobile.errors import ArtifactError
from sfmobile.inspect.estimate.cost import (
    Coefficients,
    CostModel,
    ErrorSummary,
    FitErrors,
    SegmentRow,
    call_milliseconds,
    chip_speed,
)
from sfmobile.inspect.estimate.devices import DeviceTable, PublishedPoint, device_table
from sfmobile.inspect.estimate.fusion import DENSE_KINDS

# MobileNetV3-small takes 0.13 ms in all on an iPhone 14 Pro (coremltools guide): a dispatch is shorter than that.
DISPATCH_MS = 0.1
# Stable Diffusion 2's UNet in both split forms on one chip, seconds a step. split-einsum: 50 steps, encoding, decoding
# and all, fp16, in 29 s on an iPad Pro M1 and 18 s on a MacBook Air M2 (README of apple/ml-stable-diffusion of
# November 2022); split-einsum-v2 at 6 bits on iPads (its README since version 1). What is around the form differs too,
# so one ratio is taken of both pairs.
FORMS = {"ipad-pro-m1": (29 / 50, 0.4566), "ipad-pro-m2": (18 / 50, 0.3257)}
SPLIT, CHUNKED = "sd21-base-unet-split-einsum", "sd21-base-unet"
# Relative error of a point that counts as one unit.
TOLERANCE = 0.1
# What is plausible: means and spreads of the unknowns, which are logarithms. Efficiency of products, its differences
# for each of DENSE_KINDS, share of the bandwidth, microseconds of overhead.
PRIOR: tuple[tuple[float, float], ...] = (
    (math.log(1 / 3), 1.0),
    (0.0, 0.1),
    (0.0, 0.1),
    (0.0, 0.1),
    (math.log(0.7), 0.4),
    (math.log(1.0), 1.5),
)
CHIP_SPREAD = 0.25

Networks = Mapping[str, Sequence[SegmentRow]]


@dataclass(frozen=True)
class Residual:
    """A published point and what a fit says of it."""

    point: PublishedPoint
    estimate_ms: float

    @property
    def log_error(self) -> float:
        """Logarithm of estimate over published."""
        return math.log(self.estimate_ms / self.point.milliseconds)

    @property
    def percent(self) -> float:
        """Signed error in percent of the published figure."""
        return (self.estimate_ms / self.point.milliseconds - 1) * 100


def read_networks(path: Path) -> dict[str, list[SegmentRow]]:
    """Segment tables of the networks behind published figures: {"network": [[row...], ...]}, weights in fp16.

    Raises `ArtifactError` if the file isn't one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: [SegmentRow(*row) for row in rows] for name, rows in content["networks"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"'{path}' holds no segment tables ({error}); write it with benchmarks/cost_model.py."
        ) from error


def predict(point: PublishedPoint, coefficients: Coefficients, networks: Networks, table: DeviceTable) -> float:
    """What `coefficients` say of a published point, in milliseconds."""
    chip = table.find(point.device).chip
    speed = chip_speed(chip, coefficients, table)
    return call_milliseconds(networks[point.network], coefficients, speed, point.weight_bits / 16)


class _Cases:
    """Points as arrays over the rows of their networks, so that a fit can evaluate them a thousand times.

    `milliseconds` is `predict` with `coefficients` as the logarithms that a fit varies; a test holds the two equal.
    """

    def __init__(
        self, points: Sequence[PublishedPoint], networks: Networks, table: DeviceTable, chips: Sequence[str]
    ) -> None:
        tables = [np.array([tuple(row) for row in networks[point.network]], dtype=np.float64) for point in points]
        devices = [table.find(point.device).chip for point in points]
        bases = [table.base_chip(chip) for chip in devices]
        lengths = [len(rows) for rows in tables]
        rows = np.concatenate(tables)
        scales = np.repeat([point.weight_bits / 16 for point in points], lengths)
        bandwidths = np.repeat([table.chips[chip].memory_gbps * 1e9 for chip in devices], lengths)
        rates = [(table.chips[base].fp16_tops or 0.0) * 1e12 * factor for base, factor in bases]
        self.flops = 2 * rows[:, :3] / np.repeat(rates, lengths)[:, None]
        self.memory = (rows[:, 3] * scales + rows[:, 4]) / bandwidths
        self.on_engine = 1 - rows[:, 5]
        self.repeats = rows[:, 6]
        self.chips = np.repeat([chips.index(base) for base, _ in bases], lengths)
        self.starts = np.cumsum([0, *lengths[:-1]])

    def milliseconds(self, theta: np.ndarray) -> np.ndarray:
        efficiency, bandwidth, overhead_us, chip_factors = _meaning(theta)
        factors = chip_factors[self.chips]
        arithmetic = self.flops @ (1 / efficiency) / factors
        seconds = np.maximum(arithmetic * self.on_engine, self.memory / bandwidth)
        spent = (seconds + overhead_us * 1e-6 * self.on_engine) * self.repeats
        milliseconds: np.ndarray = np.add.reduceat(spent, self.starts) * 1e3 + DISPATCH_MS
        return milliseconds


def fit(points: Sequence[PublishedPoint], networks: Networks, table: DeviceTable | None = None) -> Coefficients:
    """The coefficients that explain `points` best. Chips without a point keep a factor of 1."""
    table = table or device_table()
    chips = sorted({table.base_chip(device.chip)[0] for device in table.devices})
    cases = _Cases(points, networks, table, chips)
    published = np.log([point.milliseconds for point in points])
    start = np.array([mean for mean, _ in PRIOR] + [0.0] * len(chips))
    spread = np.array([width for _, width in PRIOR] + [CHIP_SPREAD] * len(chips))

    def residuals(theta: np.ndarray) -> np.ndarray:
        errors = np.log(cases.milliseconds(theta)) - published
        return np.concatenate([errors / TOLERANCE, (theta - start) / spread])

    # With numerical derivatives: the roofline's maximum has kinks.
    return _coefficients(least_squares(residuals, start).x, chips)


def _meaning(theta: np.ndarray) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Efficiency per kind of product, share of the bandwidth, overhead in microseconds, factor per chip."""
    kinds = len(DENSE_KINDS)
    values = np.exp(theta)
    return values[0] * values[1 : 1 + kinds], float(values[1 + kinds]), float(values[2 + kinds]), values[len(PRIOR) :]


def _coefficients(theta: np.ndarray, chips: Sequence[str]) -> Coefficients:
    efficiency, bandwidth, overhead_us, factors = _meaning(theta)
    return Coefficients(
        **{kind: float(value) for kind, value in zip(DENSE_KINDS, efficiency, strict=True)},
        bandwidth=bandwidth,
        overhead_us=overhead_us,
        dispatch_ms=DISPATCH_MS,
        chips={chip: float(value) for chip, value in zip(chips, factors, strict=True)},
    )


def left_out(
    points: Sequence[PublishedPoint],
    networks: Networks,
    group: Callable[[PublishedPoint], object],
    table: DeviceTable | None = None,
) -> list[Residual]:
    """Every point as predicted by a fit to the points of all other groups."""
    table = table or device_table()
    residuals: list[Residual] = []
    for key in dict.fromkeys(group(point) for point in points):
        inside = [point for point in points if group(point) == key]
        coefficients = fit([point for point in points if group(point) != key], networks, table)
        residuals += [Residual(point, predict(point, coefficients, networks, table)) for point in inside]
    return residuals


def summarise(residuals: Sequence[Residual]) -> ErrorSummary:
    """Median and worst error, as factors beyond 1 in percent."""
    errors = [(math.exp(abs(residual.log_error)) - 1) * 100 for residual in residuals]
    return ErrorSummary(
        points=len(errors),
        median_percent=round(float(np.median(errors)), 1),
        worst_percent=round(max(errors), 1),
    )


def fit_long_queries(networks: Networks, coefficients: Coefficients, table: DeviceTable) -> float:
    """How many times as long segments of attention over long sequences take: so that the whole UNet in the split form
    takes as much longer than in the chunked one as `FORMS` says, the geometric mean over both chips."""
    ratio = math.prod(split / chunked for split, chunked in FORMS.values()) ** (1 / len(FORMS))
    factors = []
    for device in FORMS:
        speed = chip_speed(table.find(device).chip, coefficients, table)
        plain, double = (coefficients.model_copy(update={"long_queries": factor}) for factor in (1.0, 2.0))
        wanted = ratio * call_milliseconds(networks[CHUNKED], plain, speed, 6 / 16)
        once = call_milliseconds(networks[SPLIT], plain, speed, 6 / 16)
        factors.append(1 + (wanted - once) / (call_milliseconds(networks[SPLIT], double, speed, 6 / 16) - once))
    return math.prod(factors) ** (1 / len(factors))


def fit_published(networks: Networks, table: DeviceTable | None = None) -> CostModel:
    """The model fitted to all published points that calibrate, with its errors on those left out."""
    table = table or device_table()
    points = [point for point in table.published if point.calibrates]
    coefficients = fit(points, networks, table)

    def chip(point: PublishedPoint) -> str:
        return table.base_chip(table.find(point.device).chip)[0]

    long = fit_long_queries(networks, coefficients, table)
    return CostModel(
        coefficients=coefficients.model_copy(update={"long_queries": long}),
        errors=FitErrors(
            fitted=summarise([Residual(point, predict(point, coefficients, networks, table)) for point in points]),
            point_left_out=summarise(left_out(points, networks, lambda point: points.index(point), table)),
            network_left_out=summarise(left_out(points, networks, lambda point: point.network, table)),
            chip_left_out=summarise(left_out(points, networks, chip, table)),
        ),
    )
