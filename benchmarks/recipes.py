"""Recipes of mixed bits beside uniform bits: size at equal signal, signal at equal size.

    python benchmarks/recipes.py [--checkpoint models/glyph] [--target ios17 ios18] [--plot FILE] [--json]
    python benchmarks/recipes.py --layout sd15 [--cache DIR] [--json]

The first searches recipes for the UNet of the built-in model at the signal and at the size of 6 bits with one table per
tensor, from four prompts, and runs all of it again on eight prompts and seeds that the search hasn't seen. Signals are
PSNR against the weights as they are, torch fp32: of the latents that whole runs end with (the model's own steps and
guidance), and of single UNet calls. Exit code 1 unless recipes are 25 % smaller at equal signal and 3 dB better at
equal size, on the prompts searched with and on the others.

The second times `sfmobile compress search` on a random checkpoint of full Stable Diffusion 1.5 size, watched from
outside: one prompt of four steps at 64x64, guidance 7.5, two backward passes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from full_checkpoint import CACHE, full_checkpoint
from full_size import machine
from process_tree import run_measured

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.recipes.search import Goal, Point, SearchOptions, search_component
from sfmobile.recipes.searched import DEFAULT_PROMPTS
from sfmobile.recipes.signal import LatentSignal, Runs

REPOSITORY = Path(__file__).parents[1]
HELD_OUT = (
    "a smiling cat face",
    "a penguin",
    "a red heart",
    "a cactus on a pink background",
    "a strawberry",
    "a tiger face",
    "a blue house",
    "a green tree on a yellow background",
)
HELD_OUT_SEED = 1000
BASELINE_BITS = 6
LEAST_SAVING = 0.25
LEAST_GAIN_DB = 3.0
STYLES = (("s-", "#c44e52"), ("^-", "#55a868"), ("d-", "#8172b2"))
FULL_SIZE = ("--prompt", DEFAULT_PROMPTS[-1], "--steps", "4", "--probes", "2", "--guidance", "7.5")


@dataclass(frozen=True)
class Row:
    """One way to store the UNet: bytes of all its weights; PSNR in dB on the prompts searched with, and on others."""

    target: str
    label: str
    bytes: int
    latents_db: float
    calls_db: float
    held_out_latents_db: float
    held_out_calls_db: float


def main() -> int:
    """Search, measure, print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=REPOSITORY / "models" / "glyph")
    parser.add_argument("--target", nargs="+", default=["ios17", "ios18"], choices=["ios16", "ios17", "ios18"])
    parser.add_argument("--plot", type=Path, default=REPOSITORY / "benchmarks" / "results" / "recipes.png")
    parser.add_argument("--layout", choices=["sd15"], help="time the search at full size instead")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args()
    if options.layout:
        return time_full_size(options.cache, options.json)
    rows = compare(Checkpoint.open(options.checkpoint), options.target)
    gains = [gain(rows, target) for target in options.target]
    if options.json:
        found = {"machine": machine(), "rows": [asdict(row) for row in rows], "gains": gains}
        print(json.dumps(found, indent=2))
    else:
        print_table(rows, gains)
    draw(rows, options.target, options.plot, Checkpoint.open(options.checkpoint).name)
    reached = [
        each["saving"] >= LEAST_SAVING
        and each["held_out_saving"] >= LEAST_SAVING
        and each["gain_db"] >= LEAST_GAIN_DB
        and each["held_out_gain_db"] >= LEAST_GAIN_DB
        for each in gains
    ]
    return int(not all(reached))


def compare(checkpoint: Checkpoint, targets: list[str]) -> list[Row]:
    """Uniform bits and recipes of every size, and the two recipes that are compared with the baseline."""
    steps, size = checkpoint.default_steps, checkpoint.latent_size
    runs = Runs(DEFAULT_PROMPTS, "", 0, steps, checkpoint.guidance_scale, size)
    held_out = LatentSignal(checkpoint, Runs(HELD_OUT, "", HELD_OUT_SEED, steps, checkpoint.guidance_scale, size))
    rows = []

    def add(target: str, label: str, point: Point) -> None:
        held_out.network.store(point.storages)
        other = held_out.measure()
        here = point.measured
        rows.append(Row(target, label, point.bytes, here.final_db, here.call_db, other.final_db, other.call_db))
        log(str(rows[-1]))

    for number, target in enumerate(targets):
        log(f"{target}: the smallest recipe at the signal of {BASELINE_BITS} bits, and recipes of other sizes")
        goal = Goal("signal of", BASELINE_BITS)
        smallest = search_component(checkpoint, "unet", runs, SearchOptions(goal, target, curve=True))
        log(f"{target}: the best recipe of the size of {BASELINE_BITS} bits")
        goal = Goal("size of", BASELINE_BITS)
        best = search_component(checkpoint, "unet", runs, SearchOptions(goal, target))
        log(f"{target}: other prompts")
        for point in smallest.uniform if number == len(targets) - 1 else ():
            add("uniform", point.label, point)
        for point in smallest.curve:
            add(target, point.label, point)
        add(target, "same signal", smallest.point)
        add(target, "same size", best.point)
    return rows


def gain(rows: list[Row], target: str) -> dict[str, float | str]:
    """What recipes for `target` gain over the baseline.

    On the other prompts no recipe was searched at the baseline's signal there: the size at it is interpolated between
    the recipes measured.
    """
    baseline = next(row for row in rows if row.label == f"{BASELINE_BITS} bits")
    recipes = sorted((row for row in rows if row.target == target), key=lambda row: row.bytes)
    named = {row.label: row for row in recipes}
    size = np.interp(
        baseline.held_out_latents_db,
        np.maximum.accumulate([row.held_out_latents_db for row in recipes]),
        [row.bytes for row in recipes],
    )
    best = named["same size"]
    return {
        "target": target,
        "saving": 1 - named["same signal"].bytes / baseline.bytes,
        "held_out_saving": float(1 - size / baseline.bytes),
        "gain_db": best.latents_db - baseline.latents_db,
        "held_out_gain_db": best.held_out_latents_db - baseline.held_out_latents_db,
        "calls_gain_db": best.calls_db - baseline.calls_db,
        "held_out_calls_gain_db": best.held_out_calls_db - baseline.held_out_calls_db,
    }


def print_table(rows: list[Row], gains: list[dict[str, float | str]]) -> None:
    """Print the result."""
    print(f"{machine()}\n{'':33}{'prompts searched with':>24}{'other prompts':>24}")
    print(f"{'':22}{'MB':>11}{'latents':>12}{'calls':>12}{'latents':>12}{'calls':>12}   dB")
    for row in rows:
        signals = (row.latents_db, row.calls_db, row.held_out_latents_db, row.held_out_calls_db)
        name = f"{row.target} {row.label}".replace(" on average", "")
        print(f"{name:22}{row.bytes / 1e6:>11.3f}" + "".join(f"{signal:>12.2f}" for signal in signals))
    for each in gains:
        print(
            f"{each['target']}: {each['saving']:.1%} smaller at the signal of {BASELINE_BITS} bits "
            f"({each['held_out_saving']:.1%} on other prompts), {each['gain_db']:+.1f} dB at its size "
            f"({each['held_out_gain_db']:+.1f} dB); single calls {each['calls_gain_db']:+.1f} dB "
            f"({each['held_out_calls_gain_db']:+.1f} dB)"
        )


def draw(rows: list[Row], targets: list[str], path: Path, model: str) -> None:
    """Plot size against signal, prompts searched with and others side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, held_out in zip(panels, (False, True), strict=True):
        lines = [("uniform", "uniform bits, one table a tensor", "o--", "#4878a8")]
        names = {"ios16": "recipes for iOS 16", "ios17": "recipes for iOS 17", "ios18": "recipes for iOS 18 (groups)"}
        lines += [(target, names[target], *STYLES[number]) for number, target in enumerate(targets)]
        for target, name, style, colour in lines:
            chosen = sorted((row for row in rows if row.target == target), key=lambda row: row.bytes)
            signals = [row.held_out_latents_db if held_out else row.latents_db for row in chosen]
            panel.plot([row.bytes / 1e6 for row in chosen], signals, style, color=colour, label=name, markersize=5)
            if target == "uniform":
                for row, signal in zip(chosen, signals, strict=True):
                    place = (row.bytes / 1e6, signal)
                    panel.annotate(row.label, place, textcoords="offset points", xytext=(6, -10), fontsize=8)
        known, others = f"{len(DEFAULT_PROMPTS)} prompts searched with", f"{len(HELD_OUT)} other prompts"
        panel.set(title=others if held_out else known, xlabel="UNet weights, MB")
        panel.margins(x=0.1)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("PSNR of the latents of whole runs, dB")
    panels[0].legend(fontsize=9)
    figure.suptitle(f"{model}: latents of palettized weights against those of fp16 weights (torch fp32)", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    log(f"Plot: {path}")


def time_full_size(cache: Path, as_json: bool) -> int:
    """Run the search at full size in a process of its own, and print what it took and found."""
    checkpoint = full_checkpoint(cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        recipe = Path(folder) / "recipe.json"
        command = [sys.executable, "-m", "sfmobile", "compress", "search", checkpoint, "-o", recipe, "--json"]
        run = run_measured([*command, *FULL_SIZE])
    found = json.loads(run.output)["components"][0]
    result = {
        "machine": machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "seconds": run.seconds,
        "processor_seconds": run.processor_seconds,
        "peak_anonymous": run.peak_anonymous,
        "peak_file": run.peak_file,
        "phases": found["seconds"],
        "uniform": found["uniform"],
        "recipe": found["recipe"],
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{machine()}; OMP_NUM_THREADS {result['threads']}; sfmobile compress search {' '.join(FULL_SIZE)}")
    print(
        f"{run.seconds / 60:.1f} minutes, {run.processor_seconds / 60:.1f} of processor time; "
        f"{run.peak_anonymous / 1e9:.2f} GB anonymous and {run.peak_file / 1e9:.2f} GB file-backed at the peak"
    )
    print("; ".join(f"{phase} {seconds:.0f} s" for phase, seconds in found["seconds"].items()))
    for point in (*found["uniform"], found["recipe"]):
        print(
            f"{point['label']:8}{point['bytes'] / 1e6:>9.1f} MB, latents {point['final_db']:.2f} dB, single calls "
            f"{point['call_db']:.2f} dB, expected {point['expected_db']:.2f} dB"
        )
    return 0


def log(line: str) -> None:
    """Say what is going on."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
