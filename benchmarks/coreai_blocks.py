"""Stable Diffusion 1.5's UNet block by block at full width, on `mil` and on Apple's Core AI runtime, fp32.

    nice python benchmarks/coreai_blocks.py [--latent-size 32] [--only mid_block ...] [--seconds 600] [--markdown]

Random weights, batch 1, attention split by heads; one block at a time is exported, bridged and run once on each.
Apple's kernels on Linux are slow (3x3 convolutions about 0.5 GMAC a second), so no block is begun after --seconds, and
what wasn't reached is said. Exit code 1 if a block is under 110 dB.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.export.network import NetworkPackage
from sfmobile.export.package import PackageMetadata
from sfmobile.mlpackage.program import load_program
from sfmobile.nets.attention import set_attention_form
from sfmobile.nets.layout import SD15_UNET
from sfmobile.nets.unet import UNet, UNetStage
from sfmobile.runtime.coreai.asset import bridged
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.signal import psnr
from sfmobile.tables import Table, as_text
from sfmobile.testing import random_weight
from sfmobile.verify.coreai_reference import OPERATORS_GATE_DB

TOKENS = 77
Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """One block: its weights, agreement of the two, seconds of a call on each."""

    name: str
    parameters: int
    side: int
    psnr_db: float
    mil_seconds: float
    apple_seconds: float


class Block(nn.Module):
    """A stage by itself, with what the UNet hands it: state, time, text, and skips on the way up."""

    def __init__(self, stage: UNetStage, up: bool) -> None:
        super().__init__()
        self.stage, self.up = stage, up

    def forward(self, hidden: Tensor, time: Tensor, context: Tensor, *skips: Tensor) -> Tensor:
        """(B, C, H, W), (B, E, 1, 1), (B, T, 1, S); the skips in the order in which they were pushed."""
        result: Tensor = self.stage(hidden, time, context, list(skips), None, push=not self.up and not skips)
        for name in ("downsamplers", "upsamplers"):
            if hasattr(self.stage, name):
                result = getattr(self.stage, name)[0](result)
        return result


def main() -> int:
    """Print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent-size", type=int, default=32, help="height and width of the latents")
    parser.add_argument("--only", nargs="+", metavar="BLOCK", help="such as mid_block or up_blocks.1")
    parser.add_argument("--seconds", type=float, default=600, help="begin no block after these")
    parser.add_argument("--markdown", action="store_true", help="a table of Markdown")
    options = parser.parse_args()
    with torch.device("meta"):
        net = UNet(SD15_UNET)
    blocks = sides(net, options.latent_size)
    start, rows, missed = time.perf_counter(), [], []
    for name in options.only or sorted(blocks, key=lambda name: blocks[name][1]):
        if time.perf_counter() - start > options.seconds:
            missed.append(name)
            continue
        rows.append(measure(name, *blocks[name]))
        print(rows[-1], file=sys.stderr, flush=True)
        gc.collect()
    table = summary(rows, missed, options.latent_size)
    print(markdown(table) if options.markdown else as_text([table]))
    return 0 if all(row.psnr_db >= OPERATORS_GATE_DB for row in rows) else 1


def sides(net: UNet, latent_size: int) -> dict[str, tuple[UNetStage, int]]:
    """Every block by its name in the checkpoint, and the side of the state that it takes."""
    levels = len(net.down_blocks)
    found = {f"down_blocks.{level}": (block, latent_size >> level) for level, block in enumerate(net.down_blocks)}
    found["mid_block"] = (net.mid_block, latent_size >> (levels - 1))
    for index, block in enumerate(net.up_blocks):
        found[f"up_blocks.{index}"] = (block, latent_size >> (levels - 1 - index))
    return found  # type: ignore[return-value]


def measure(name: str, stage: UNetStage, side: int) -> Row:
    """Export a block, run it on both."""
    up = name.startswith("up")
    widths = [resnet.norm1.num_channels for resnet in stage.resnets]
    channels = stage.stage.channels
    hidden = widths[0] if not up else previous(name)
    skips = [width - (hidden if index == 0 else channels) for index, width in enumerate(widths)] if up else []
    shapes = {
        "hidden": (1, hidden, side, side),
        "time": (1, 4 * SD15_UNET.down[0].channels, 1, 1),
        "context": (1, SD15_UNET.cross_attention_dim, 1, TOKENS),
        # The last pushed is the first taken.
        **{f"skip{index}": (1, width, side, side) for index, width in enumerate(reversed(skips))},
    }
    net = filled(Block(stage, up), name)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    inputs = tuple(TensorRecord(name=key, shape=shape, dtype="float16") for key, shape in shapes.items())
    # Its shape is the program's to say.
    outputs = (TensorRecord(name="result", shape=(), dtype="float16"),)
    generator = np.random.default_rng(0)
    values = {key: generator.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "block.mlpackage"
        NetworkPackage(inputs, outputs, "ios17", PackageMetadata(name)).write(net, package)
        del net
        program = load_program(package)
        taken = {key: values[key] for key in program.inputs}
        (ours,), mil_seconds = timed(partial(called, Evaluator(program), taken))
        with bridged(program, "fp32") as asset:
            (apples,), apple_seconds = timed(lambda: list(asset.call("main", taken).values()))
    return Row(name, parameters, side, psnr(apples, ours), mil_seconds, apple_seconds)


def previous(name: str) -> int:
    """Channels of what an up block is handed."""
    index = int(name.rpartition(".")[2])
    return SD15_UNET.mid.channels if index == 0 else SD15_UNET.up[index - 1].channels


def filled(net: Block, name: str) -> Block:
    """Random weights in float16, attention split by heads."""
    net = net.to(torch.float16).to_empty(device="cpu")
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            parameter.copy_(random_weight(f"{name}.{key}", tuple(parameter.shape), 0))
    set_attention_form(net, "split-einsum")
    return net.eval()


def called(evaluator: Evaluator, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs, in order."""
    return list(evaluator(inputs).values())


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def summary(rows: list[Row], missed: list[str], latent_size: int) -> Table:
    """For people."""
    lines = tuple(
        (
            row.name,
            f"{row.parameters:,}",
            f"{row.side}x{row.side}",
            f"{row.psnr_db:.1f} dB",
            f"{row.mil_seconds:.1f} s",
            f"{row.apple_seconds:.1f} s",
        )
        for row in rows
    )
    columns = ("block", "parameters", "state", "mil and Apple", "mil", "Apple")
    caption = f"Not reached: {', '.join(missed)}." if missed else None
    return Table(f"SD-1.5's UNet, latents {latent_size}x{latent_size}, fp32", columns, lines, (0,), caption)


def markdown(table: Table) -> str:
    """As a page has it."""
    head = [table.columns, tuple("---" if n in table.text_columns else "---:" for n in range(len(table.columns)))]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (*head, *table.rows))
    return lines if table.caption is None else f"{lines}\n\n{table.caption}"


if __name__ == "__main__":
    sys.exit(main())
