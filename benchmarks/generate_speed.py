"""An 8-step picture in our runtimes beside diffusers' own pipeline with the same weights on the same machine.

    python benchmarks/generate_speed.py [--size full] [--runtime mil onnx] [--steps 8] [--rounds 1] [--json]

A random checkpoint of Stable Diffusion 1.5's size (full) or about the built-in model's (small; diffusers has no way to
say the built-in layout itself) is made and exported, kept under --cache, so that a rerun only measures. Each
contestant runs in a fresh process of the same tree: it loads in fp32, draws one step that isn't counted (both compile
and lay out on first use), then the whole picture; the smallest time of --rounds counts. All get the same prompt, seed
and scheduler, and must draw the same picture. Exit code 1 if the fastest of ours takes longer than --gate times
diffusers, or a picture agrees with diffusers' by less than 45 dB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from full_checkpoint import CACHE, full_checkpoint, small_checkpoint

from sfmobile.bench.isolation import run_isolated
from sfmobile.runtime.choices import RuntimeChoice

PROMPT = "a red apple on a table, studio light"
NEGATIVE = "blurry"
SEED = 7
GUIDANCE = 7.5
GATE_DB = 45.0


@dataclass(frozen=True)
class Drawing:
    """What one contestant did. Seconds are wall time; peaks are of its process, in bytes."""

    description: str
    load_seconds: float
    picture_seconds: float
    peak_anonymous: int
    peak_file_backed: int
    pixels: np.ndarray


def main() -> int:
    """Draw with both, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="full", choices=["full", "small"])
    parser.add_argument("--checkpoint", type=Path, help="another diffusers-format directory that diffusers can load")
    parser.add_argument("--attention", default="original", choices=["original", "split-einsum", "split-einsum-v2"])
    parser.add_argument("--runtime", nargs="+", default=["mil"], choices=["mil", "onnx"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="whole pictures drawn by each")
    parser.add_argument("--gate", type=float, default=1.0, help="largest ratio to diffusers' time")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args()
    made = full_checkpoint if options.size == "full" else small_checkpoint
    checkpoint = options.checkpoint or made(options.cache)
    bundle = exported(checkpoint, options.attention, options.cache)
    drawings: dict[str, Drawing] = {}
    contestants: dict[str, Callable[..., Drawing]] = {"diffusers": partial(draw_with_diffusers, checkpoint)}
    contestants.update({kind: partial(draw_with_runtime, bundle, kind) for kind in options.runtime})
    for name, draw in contestants.items():
        log(f"{name}: {options.rounds} x {options.steps} steps")
        drawings[name] = run_isolated(draw, options.steps, options.rounds, what=name)
    return report(drawings, options.gate, options.json)


def exported(checkpoint: Path, attention: str, cache: Path) -> Path:
    """The checkpoint as a bundle, uncompressed, made once."""
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.export.exporter import export_bundle
    from sfmobile.export.options import ExportOptions

    root = cache / "generate" / f"{checkpoint.resolve().name}-{attention}"
    if not root.exists():
        log(f"exporting {attention}")
        root.parent.mkdir(parents=True, exist_ok=True)
        export_bundle(Checkpoint.open(checkpoint), root, ExportOptions(target="ios17", attention=attention))
    return root


def draw_with_diffusers(checkpoint: Path, steps: int, rounds: int, advance: Callable[[int], None]) -> Drawing:
    """diffusers' StableDiffusionPipeline in fp32 with DDIM."""
    import diffusers
    import torch

    from sfmobile.bench.memory import PeakMemory

    with PeakMemory() as memory:
        start = time.perf_counter()
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        load = time.perf_counter() - start

        def draw(count: int) -> np.ndarray:
            generator = torch.Generator().manual_seed(SEED)
            result = pipeline(
                PROMPT,
                negative_prompt=NEGATIVE,
                num_inference_steps=count,
                guidance_scale=GUIDANCE,
                generator=generator,
            )
            return np.asarray(result.images[0])

        seconds, pixels = best_of(draw, steps, rounds, advance)
    description = f"diffusers {diffusers.__version__} fp32 (torch {torch.__version__})"
    return drawing(description, load, seconds, memory, pixels)


def draw_with_runtime(
    root: Path, kind: RuntimeChoice, steps: int, rounds: int, advance: Callable[[int], None]
) -> Drawing:
    """The bundle in one of our runtimes, in fp32."""
    from sfmobile.bench.memory import PeakMemory
    from sfmobile.bundle.directory import Bundle
    from sfmobile.runtime.opening import open_runtime
    from sfmobile.sampling.pipeline import Request, TextToImage

    bundle = Bundle.open(root, check="sizes")
    with PeakMemory() as memory:
        runtime = open_runtime(kind, bundle)
        with TextToImage.of_bundle(bundle, runtime) as pipeline:
            start = time.perf_counter()
            for name in bundle.manifest.components:
                pipeline.component(name)
            load = time.perf_counter() - start

            def draw(count: int) -> np.ndarray:
                return pipeline.generate(Request(PROMPT, NEGATIVE, SEED, count, GUIDANCE)).pixels

            seconds, pixels = best_of(draw, steps, rounds, advance)
    return drawing(runtime.describe(), load, seconds, memory, pixels)


def best_of(
    draw: Callable[[int], np.ndarray], steps: int, rounds: int, advance: Callable[[int], None]
) -> tuple[float, np.ndarray]:
    """Smallest wall time of a picture, after one step to warm up, and the picture."""
    draw(1)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        pixels = draw(steps)
        best = min(best, time.perf_counter() - start)
        advance(1)
    return best, pixels


def drawing(description: str, load: float, seconds: float, memory: object, pixels: np.ndarray) -> Drawing:
    """The record of one contestant."""
    from sfmobile.bench.memory import PeakMemory

    assert isinstance(memory, PeakMemory)
    record = memory.record
    return Drawing(
        description, load, seconds, record.peak_anonymous_bytes or 0, record.peak_file_backed_bytes or 0, pixels
    )


def report(drawings: dict[str, Drawing], gate: float, as_json: bool) -> int:
    """Print both and the ratio; the exit code."""
    from sfmobile.signal import psnr

    theirs = drawings["diffusers"]
    ratios = {name: drawing.picture_seconds / theirs.picture_seconds for name, drawing in drawings.items()}
    agreements = {name: psnr(theirs.pixels, drawing.pixels, peak=255) for name, drawing in drawings.items()}
    del ratios["diffusers"], agreements["diffusers"]
    if as_json:
        rows = {
            name: {key: value for key, value in asdict(drawing).items() if key != "pixels"}
            for name, drawing in drawings.items()
        }
        print(json.dumps({"machine": machine(), **rows, "ratios": ratios, "psnr_db": agreements}, indent=2))
    else:
        print(f"{machine()}")
        for drawing in drawings.values():
            times = f"load {drawing.load_seconds:6.1f} s  picture {drawing.picture_seconds:7.1f} s"
            peaks = f"{drawing.peak_anonymous / 1e9:5.2f} GB anonymous, {drawing.peak_file_backed / 1e9:5.2f} GB mapped"
            print(f"{drawing.description:>64}  {times}  peak {peaks}")
        for name, ratio in ratios.items():
            print(f"{name} / diffusers: {ratio:.2f}; pictures agree at {agreements[name]:.1f} dB")
    return int(min(ratios.values()) > gate or min(agreements.values()) < GATE_DB)


def machine() -> str:
    """What the figures were measured on."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{platform.platform()}, {os.cpu_count()} processors, load average {load}"


def log(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # As a module: the fresh processes import its functions from there.
    import generate_speed

    sys.exit(generate_speed.main())
