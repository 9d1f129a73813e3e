"""Fits the cost model to the published latencies and says how far it is off, on points it saw and on those it didn't.

python benchmarks/cost_model.py                     error table, stages, estimates per device, from committed tables
python benchmarks/cost_model.py --write             also writes sfmobile/inspect/estimate/cost_model.json
python benchmarks/cost_model.py --packages DIR      first exports the full-size networks again (minutes, 6 GB disk)
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from calibration import (
    Networks,
    Residual,
    fit,
    fit_published,
    left_out,
    predict,
    read_networks,
    summarise,
)

from sfmobile.cli.console import print_table
from sfmobile.files import write_json
from sfmobile.inspect.estimate.cost import MODEL_FILE, Coefficients, CostModel, call_milliseconds, chip_speed, rows_of
from sfmobile.inspect.estimate.devices import DeviceTable, PublishedPoint, device_table
from sfmobile.inspect.estimate.fusion import DENSE_KINDS, fuse
from sfmobile.inspect.lint.attention import long_products
from sfmobile.inspect.lint.rule import rule_book
from sfmobile.inspect.operations.blocks import stage_of
from sfmobile.inspect.operations.op_table import op_table
from sfmobile.mlpackage.graph import Graph

TABLES = Path(__file__).parent / "cost_model_data" / "networks.json"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, metavar="DIR", help="export (what isn't there) and read off anew")
    parser.add_argument("--write", action="store_true", help=f"write {MODEL_FILE.name}")
    options = parser.parse_args()
    if options.packages is not None:
        TABLES.parent.mkdir(exist_ok=True)
        TABLES.write_text(json.dumps(read_off(options.packages)) + "\n", encoding="utf-8")
    networks, table = read_networks(TABLES), device_table()
    model = fit_published(networks, table)
    print_model(model)
    print_errors(model, networks, table)
    print_flops_only(networks, table)
    print_stages(json.loads(TABLES.read_text(encoding="utf-8"))["blocks"])
    print_devices(model.coefficients, networks, table)
    if options.write:
        write_json(MODEL_FILE, model)


def read_off(packages: Path) -> dict[str, Any]:
    """Segments and blocks of every network, exported into `packages` unless it is there."""
    from benchmarks.full_size_packages import NETWORKS, write_resnet50, write_zero_package

    packages.mkdir(parents=True, exist_ok=True)
    cpu = frozenset(rule_book().rule("cpu-operation").kinds)
    tables: dict[str, Any] = {"networks": {}, "blocks": {}}
    for name in (*NETWORKS, "resnet50"):
        from sfmobile.mlpackage.program import load_program

        path = packages / f"{name}.mlpackage"
        if not path.exists():
            write_resnet50(path) if name == "resnet50" else write_zero_package(name, path)
        graph = Graph(load_program(path))
        costs = op_table(graph)
        segments = fuse(graph, cpu, costs, long_products(graph, rule_book().rule("long-queries")))
        tables["networks"][name] = [list(row) for row in rows_of(segments)]
        blocks: dict[str, list[int]] = {}
        for segment in segments:
            sums = blocks.setdefault(segment.block, [0] * 5)
            parts = [segment.macs.get(kind, 0) for kind in DENSE_KINDS]
            parts += [segment.weight_bytes, segment.streamed_bytes]
            blocks[segment.block] = [before + part for before, part in zip(sums, parts, strict=True)]
        tables["blocks"][name] = blocks
    return tables


def calibrating(table: DeviceTable) -> list[PublishedPoint]:
    """The points that the model is fitted to."""
    return [point for point in table.published if point.calibrates]


def print_model(model: CostModel) -> None:
    """The fitted constants."""
    fitted = model.coefficients
    rows = [(name, f"{getattr(fitted, name):.3f}") for name in ("spatial", "pointwise", "attention", "bandwidth")]
    rows += [("overhead per segment, us", f"{fitted.overhead_us:.2f}"), ("dispatch, ms", f"{fitted.dispatch_ms:.2f}")]
    rows += [(f"factor of {chip}", f"{factor:.2f}") for chip, factor in fitted.chips.items()]
    print_table(
        "Fitted constants: shares of the advertised fp16 rate and of the bandwidth", ("constant", "value"), rows
    )


def print_errors(model: CostModel, networks: Networks, table: DeviceTable) -> None:
    """Every published point beside its estimates."""
    points = calibrating(table)
    alone = left_out(points, networks, lambda point: points.index(point), table)
    by_network = {id(one.point): one for one in left_out(points, networks, lambda point: point.network, table)}

    def row(point: PublishedPoint, without: Residual | None) -> tuple[str, ...]:
        fitted = Residual(point, predict(point, model.coefficients, networks, table))
        network = by_network.get(id(point))
        return (
            point.device,
            point.network,
            f"{point.weight_bits:g}",
            f"{point.milliseconds:g}",
            f"{fitted.estimate_ms:.4g}",
            f"{fitted.percent:+.0f} %",
            "-" if without is None else f"{without.percent:+.0f} %",
            "-" if network is None else f"{network.percent:+.0f} %",
            point.source,
        )

    rows = [row(point, without) for point, without in zip(points, alone, strict=True)]
    rows += [row(point, None) for point in table.published if not point.calibrates]
    print_table(
        "Published latencies against estimates, ms",
        ("device", "network", "bits", "published", "fitted", "error", "point out", "network out", "source"),
        rows,
        text_columns=(0, 1, 8),
        caption="point out, network out: error of a fit that didn't see the point, or any point of its network. "
        "The last row isn't fitted: its graph isn't described.",
    )
    errors = model.errors
    print_table(
        "Errors, as factors beyond 1",
        ("points seen", "median", "worst"),
        [
            (name, f"{summary.median_percent:.0f} %", f"{summary.worst_percent:.0f} %")
            for name, summary in (
                ("all", errors.fitted),
                ("all but the point", errors.point_left_out),
                ("none of the network", errors.network_left_out),
                ("none of the chip", errors.chip_left_out),
            )
        ],
    )


def print_flops_only(networks: Networks, table: DeviceTable) -> None:
    """The same points by arithmetic alone: one rate per chip, fitted, no memory, no kinds of products."""
    points = calibrating(table)

    def flops(point: PublishedPoint) -> float:
        return 2.0 * sum(row.repeats * (row.spatial + row.pointwise + row.attention) for row in networks[point.network])

    def chip(point: PublishedPoint) -> str:
        return table.base_chip(table.find(point.device).chip)[0]

    def estimate(point: PublishedPoint, seen: Sequence[PublishedPoint]) -> Residual:
        own = [one for one in seen if chip(one) == chip(point)]
        rate = np.exp(np.mean([math.log(flops(one) / one.milliseconds) for one in own or seen]))
        return Residual(point, float(flops(point) / rate))

    without_point = summarise([estimate(point, [one for one in points if one is not point]) for point in points])
    without_network = summarise(
        [estimate(point, [one for one in points if one.network != point.network]) for point in points]
    )
    print_table(
        "For comparison: arithmetic alone at one rate per chip",
        ("points seen", "median", "worst"),
        [
            (name, f"{found.median_percent:.0f} %", f"{found.worst_percent:.0f} %")
            for name, found in (("all but the point", without_point), ("none of the network", without_network))
        ],
    )


def print_stages(blocks: dict[str, dict[str, list[int]]]) -> None:
    """Arithmetic per stage of the two UNets, at batch 1."""
    names = ("sd15-unet", "snapfusion-unet")
    stages = list(dict.fromkeys(stage_of(block) for name in names for block in blocks[name]))

    def sums(name: str, stage: str | None) -> tuple[float, float, float]:
        chosen = [parts for block, parts in blocks[name].items() if stage is None or stage_of(block) == stage]
        macs = sum(sum(parts[:3]) for parts in chosen) / 2e9
        return macs, sum(parts[2] for parts in chosen) / 2e9, sum(parts[3] for parts in chosen) / 2e6

    rows = []
    for stage in (*stages, None):
        one, other = (sums(name, stage) for name in names)
        cells = (
            f"{one[0]:.1f}",
            f"{other[0]:.1f}",
            f"{one[1]:.1f}",
            f"{other[1]:.1f}",
            f"{one[2]:.0f}",
            f"{other[2]:.0f}",
        )
        rows.append((stage or "all", *cells))
    print_table(
        "GMAC at batch 1, 64x64 latents, and millions of weights: SD-1.5 | SnapFusion",
        ("stage", "GMAC", "GMAC", "of it attention", "of it attention", "weights", "weights"),
        rows,
    )
    batch_2 = sum(sum(parts[:3]) for parts in blocks["sd15-unet"].values()) * 2 / 1e12
    print_table("SD-1.5's UNet at batch 2", ("TFLOP",), [(f"{batch_2:.4f}",)], text_columns=())


def print_devices(coefficients: Coefficients, networks: Networks, table: DeviceTable) -> None:
    """Estimated milliseconds of the SnapFusion components, 6-bit weights, per chip, and of 8 steps end to end."""
    rows = []
    for chip in ("A14", "A15", "A16", "A17 Pro", "A18 Pro", "A19 Pro", "M1", "M2", "M3", "M4"):
        speed = chip_speed(chip, coefficients, table)

        def milliseconds(name: str, speed: Any = speed) -> float:
            return call_milliseconds(networks[name], coefficients, speed, 6 / 16)

        text, unet, decoder = (
            milliseconds(name) for name in ("sd15-text-encoder", "snapfusion-unet", "snapfusion-decoder")
        )
        total = 2 * text + 8 * unet + decoder
        effective = 1218.2 / unet
        basis = table.chips[chip].basis or "published latencies"
        rows.append(
            (chip, f"{text:.1f}", f"{unet:.0f}", f"{decoder:.0f}", f"{total / 1e3:.2f}", f"{effective:.2f}", basis)
        )
    print_table(
        "Estimated: SnapFusion at 6 bits, batch 2, 8 steps",
        ("chip", "text, ms", "UNet, ms", "decoder, ms", "total, s", "UNet TFLOP/s", "rate from"),
        rows,
        text_columns=(0, 6),
    )
    seen = calibrating(table)
    refit = fit([point for point in seen if point.network != "snapfusion-unet"], networks, table)
    speed = chip_speed("A16", refit, table)
    estimate = call_milliseconds(networks["snapfusion-unet"], refit, speed)
    print_table(
        "SnapFusion's UNet on iPhone 14 Pro, from points of other networks alone",
        ("estimated, ms", "published, ms"),
        [(f"{estimate:.0f}", "230")],
        text_columns=(),
    )


if __name__ == "__main__":
    main()
