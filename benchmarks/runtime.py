"""One UNet call in the mil runtime against the same torch module, side by side in one process.

    python benchmarks/runtime.py [--size half full] [--attention original split-einsum] [--calls 5] [--json]

For each size a random checkpoint is made and its UNet exported (kept under --cache, so that a rerun only measures).
Then torch module and evaluator are called in turn on the same inputs, weights decoded beforehand; the smallest time of
each counts, for both share the machine with whatever else runs. The torch module runs in its fastest form (`original`:
torch's own attention kernel) and in the package's form. Exit code 1 if the evaluator takes more than --gate times as
long as the fastest module, or agrees with it by less than 90 dB in fp32 evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from full_checkpoint import CACHE, full_checkpoint
from torch import nn

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage.program import load_program
from sfmobile.nets.attention import ATTENTION_FORMS, AttentionForm, set_attention_form
from sfmobile.nets.layout import SD15_UNET, AutoencoderLayout, Stage, TextEncoderLayout, UNetLayout
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.signal import psnr
from sfmobile.testing import write_synthetic_checkpoint

GATE_DB = 90.0


def _narrowed(factor: int) -> UNetLayout:
    """SD-1.5's UNet with every width divided, heads included: the same operations on smaller operands."""

    def narrow(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return tuple(replace(stage, channels=stage.channels // factor) for stage in stages)

    return replace(
        SD15_UNET,
        name=f"sd15-{factor}th",
        down=narrow(SD15_UNET.down),
        mid=narrow((SD15_UNET.mid,))[0],
        up=narrow(SD15_UNET.up),
        cross_attention_dim=SD15_UNET.cross_attention_dim // factor,
        heads=8 // factor,
    )


# A quarter of SD-1.5's parameters on a quarter of its pixels.
HALF_UNET = _narrowed(2)
HALF_LATENT_SIDE = 32
SIZES = ("half", "full")


@dataclass(frozen=True)
class Row:
    """One package. Seconds are the smallest wall time of one call; ratios are to `module`, the fastest torch form."""

    size: str
    parameters: int
    attention: AttentionForm
    load_seconds: float
    module: float
    module_same_form: float
    mil_fp32: float
    mil_fp16: float
    ratio_fp32: float
    ratio_fp16: float
    psnr_fp32_db: float
    psnr_fp16_db: float


def main() -> int:
    """Measure all sizes and forms, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--attention", nargs="+", choices=ATTENTION_FORMS, default=["original", "split-einsum"])
    parser.add_argument("--calls", type=int, default=5, help="calls of each, after one that isn't counted")
    parser.add_argument("--gate", type=float, default=1.1, help="largest ratio to the torch module")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args()
    rows: list[Row] = []
    for size in options.size:
        rows += measure(size, options.attention, options.calls, options.cache)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print_table(rows)
    return int(any(row.ratio_fp32 > options.gate or row.psnr_fp32_db < GATE_DB for row in rows))


def checkpoint_of(size: str, cache: Path) -> Checkpoint:
    """The random checkpoint of a size, made once; of the smaller one only the UNet is as large as its name says."""
    if size == "full":
        return Checkpoint.open(full_checkpoint(cache))
    root = cache / "runtime" / size
    if not root.exists():
        layout, side = HALF_UNET, HALF_LATENT_SIDE
        log(f"{size}: making the checkpoint")
        root.parent.mkdir(parents=True, exist_ok=True)
        write_synthetic_checkpoint(
            root,
            unet_layout=layout,
            text_encoder_layout=TextEncoderLayout(
                hidden=layout.cross_attention_dim, layers=1, heads=2, intermediate=64, vocabulary=600
            ),
            autoencoder_layout=AutoencoderLayout("tiny", (16, 32), (16, 32), layers_per_block=1, norm_groups=8),
            latent_size=(side, side),
        )
    return Checkpoint.open(root)


def package_of(checkpoint: Checkpoint, size: str, attention: AttentionForm, cache: Path) -> Path:
    """The exported UNet in one attention form, made once."""
    root = cache / "runtime" / f"{size}-{attention}"
    if not root.exists():
        log(f"{size}: exporting {attention}")
        root.parent.mkdir(parents=True, exist_ok=True)
        options = ExportOptions(target="ios17", attention=attention, components=("unet",))
        export_bundle(checkpoint, root, options)
    return root / "UNet.mlpackage"


def measure(size: str, forms: list[AttentionForm], calls: int, cache: Path) -> list[Row]:
    """Rows of one size."""
    checkpoint = checkpoint_of(size, cache)
    packages = {form: package_of(checkpoint, size, form, cache) for form in forms}
    net = checkpoint.load("unet")
    return [measure_package(size, net, form, package, calls) for form, package in packages.items()]


def measure_package(size: str, net: nn.Module, form: AttentionForm, package: Path, calls: int) -> Row:
    """Torch module and evaluator in turn; one evaluator is held at a time."""
    program = load_program(package)
    random = np.random.default_rng(0)
    inputs = {name: random.normal(size=kind.shape).astype(np.float32) for name, kind in program.inputs.items()}
    contestants = {"module": partial(call_module, net, "original", inputs)}
    if form != "original":
        contestants["same form"] = partial(call_module, net, form, inputs)
    log(f"{size} {form}: fp32 evaluation")
    start = time.perf_counter()
    evaluator = Evaluator(program, "fp32")
    load_seconds = time.perf_counter() - start
    wide = take_turns({**contestants, "mil": partial(call_evaluator, evaluator, inputs)}, calls)
    del evaluator
    log(f"{size} {form}: fp16 evaluation")
    narrow = take_turns(
        {
            "module": partial(call_module, net, "original", inputs),
            "mil": partial(call_evaluator, Evaluator(program, "fp16"), inputs),
        },
        calls,
    )
    module, reference = wide["module"]
    return Row(
        size=size,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        attention=form,
        load_seconds=load_seconds,
        module=module,
        module_same_form=wide.get("same form", wide["module"])[0],
        mil_fp32=wide["mil"][0],
        mil_fp16=narrow["mil"][0],
        ratio_fp32=wide["mil"][0] / module,
        ratio_fp16=narrow["mil"][0] / narrow["module"][0],
        psnr_fp32_db=psnr(reference, wide["mil"][1]),
        psnr_fp16_db=psnr(reference, narrow["mil"][1]),
    )


def call_module(net: nn.Module, form: AttentionForm, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """One call of the torch module."""
    set_attention_form(net, form)
    with torch.inference_mode():
        output: np.ndarray = net(**{name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()
    return output


def call_evaluator(evaluator: Evaluator, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """One call of the evaluator."""
    return next(iter(evaluator(inputs).values()))


def take_turns(contestants: dict[str, Callable[[], np.ndarray]], calls: int) -> dict[str, tuple[float, np.ndarray]]:
    """Smallest wall time and result of each, called in turn so that all suffer alike from whatever else runs."""
    best = dict.fromkeys(contestants, float("inf"))
    results = {name: call() for name, call in contestants.items()}
    for _ in range(calls):
        for name, call in contestants.items():
            start = time.perf_counter()
            results[name] = call()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: (best[name], results[name]) for name in contestants}


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": os.getloadavg(),
    }


def print_table(rows: list[Row]) -> None:
    """The rows as text."""
    facts = machine()
    print(f"{facts['system']}, {facts['processors']} processors, {facts['threads']} threads, torch {facts['torch']}")
    head = ("size", "weights", "attention", "load s", "torch s", "same form s", "fp32 s", "fp16 s", "fp32/torch")
    print("  ".join(f"{title:>12}" for title in (*head, "fp16/torch", "fp32 dB", "fp16 dB")))
    for row in rows:
        cells = (
            row.size,
            f"{row.parameters / 1e6:.1f} M",
            row.attention,
            f"{row.load_seconds:.2f}",
            f"{row.module:.3f}",
            f"{row.module_same_form:.3f}",
            f"{row.mil_fp32:.3f}",
            f"{row.mil_fp16:.3f}",
            f"{row.ratio_fp32:.2f}",
            f"{row.ratio_fp16:.2f}",
            f"{row.psnr_fp32_db:.1f}",
            f"{row.psnr_fp16_db:.1f}",
        )
        print("  ".join(f"{cell:>12}" for cell in cells))


def log(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
