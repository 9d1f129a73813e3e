"""Palettization of Stable Diffusion 1.5's UNet weights: sfmobile beside coremltools, same tensors, same process.

    python benchmarks/palettize_speed.py [--bits 6] [--group-size 16] [--cache DIR] [--json]

ours      every compressible weight of the UNet (859 M), on all cores as an export does it; and the sample below on one.
baseline  `palettize_weights.blockwise_compress`, coremltools' exact k-means (k-means1d over distinct values from 10,000
          weights on), on a sample: one weight of each kind and resolution. Groups of fewer weights than that need
          scikit-learn there and are left out.
Also printed: the ratio of squared errors on the sample, which must not exceed 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from full_checkpoint import CACHE, full_checkpoint
from full_size import machine

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe, compressible_layers
from sfmobile.export.quiet import quiet

SAMPLE = (
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.resnets.1.conv2",
    "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k",
    "mid_block.attentions.0.proj_in",
    "up_blocks.1.resnets.2.conv_shortcut",
)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """Weights per second of one granularity, and squared error of ours over coremltools' on the sample."""

    granularity: str
    all_weights: int
    ours_all: float
    sample_weights: int
    ours_sample: float
    coremltools_sample: float
    error_ratio: float


def main() -> int:
    """Measure per tensor and per group; exit code 1 if an error is above coremltools'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    state = Checkpoint.open(full_checkpoint(options.cache)).state_dict("unet")
    names = compressible_layers({key: tuple(value.shape) for key, value in state.items()})
    weights = {name: state[f"{name}.weight"].numpy() for name in names}
    # Compile and import before measuring.
    ramp = np.linspace(-1, 1, 16_384, dtype=np.float16).reshape(128, 128, 1, 1)
    palettize_weight(ramp, LayerRecipe(bits=options.bits))
    compress_with_coremltools(ramp, LayerRecipe(bits=1))
    rows = [
        measure("per tensor", weights, LayerRecipe(bits=options.bits)),
        measure(
            f"per {options.group_size} channels",
            weights,
            LayerRecipe(bits=options.bits, group_size=options.group_size),
        ),
    ]
    if options.json:
        print(json.dumps({"machine": machine(), "bits": options.bits, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print_table(options.bits, rows)
    return int(any(row.error_ratio > 1 + TOLERANCE for row in rows))


def measure(granularity: str, weights: dict[str, np.ndarray], layer: LayerRecipe) -> Row:
    """All weights with ours, the sample with both."""
    sample = {name: weights[name] for name in SAMPLE}
    smallest = min(value[: layer.group_size or len(value)].size for value in sample.values())
    if smallest < 10_000:
        sample = {name: value for name, value in sample.items() if value[: layer.group_size].size >= 10_000}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        everything = timed(lambda: list(pool.map(lambda value: palettize_weight(value, layer).error, weights.values())))
    ours, theirs = np.zeros(2), np.zeros(2)
    for value in sample.values():
        ours += timed_error(value, lambda value: palettize_weight(value, layer).dense())
        theirs += timed_error(value, lambda value: compress_with_coremltools(value, layer))
    total, part = sum(value.size for value in weights.values()), sum(value.size for value in sample.values())
    return Row(granularity, total, total / everything, part, part / ours[0], part / theirs[0], ours[1] / theirs[1])


def compress_with_coremltools(value: np.ndarray, layer: LayerRecipe) -> np.ndarray:
    """The dense weights after coremltools' palettization."""
    with quiet():
        from coremltools.optimize.coreml._quantization_passes import palettize_weights
    blocks = [layer.group_size or 0] + [0] * (value.ndim - 1)
    stored = palettize_weights.blockwise_compress(value, "KMEANS", layer.bits, blocks)
    assert stored is not None
    rows = stored.indices.reshape(stored.lut.shape[0], -1)
    return np.take_along_axis(stored.lut.reshape(stored.lut.shape[0], -1), rows, axis=1).reshape(value.shape)


def timed(work: Callable[[], object]) -> float:
    """Wall seconds of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed_error(value: np.ndarray, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Seconds, and squared error of the result."""
    start = time.perf_counter()
    dense = work(value)
    seconds = time.perf_counter() - start
    return np.array([seconds, ((value.astype(np.float64) - dense.astype(np.float64)) ** 2).sum()])


def print_table(bits: int, rows: list[Row]) -> None:
    """Print the result."""
    print(f"{machine()}\n{bits} bits, millions of weights a second")
    print(f"{'':18}{'ours, all':>11}{'ours, sample':>14}{'coremltools':>13}{'ratio':>8}{'error ratio':>14}")
    for row in rows:
        print(
            f"{row.granularity:18}{row.ours_all / 1e6:>11.1f}{row.ours_sample / 1e6:>14.1f}"
            f"{row.coremltools_sample / 1e6:>13.2f}{row.ours_sample / row.coremltools_sample:>7.0f}x"
            f"{row.error_ratio:>14.7f}"
        )


if __name__ == "__main__":
    sys.exit(main())
