"""What a sampler's step costs the host, and how close whole walks end to diffusers'.

    python benchmarks/samplers.py                     the table, with Swift's times where a Swift toolchain is
    python benchmarks/samplers.py --sheet FILE.png    also the built-in model's pictures, samplers × steps

Time: of scaling the input and of one step with its draws, per network call of a 20-step walk (4 for lcm and tcd), on
latents of 4×64×64, the best of several walks; in Python on one thread, in Swift as built for release. PSNR: both sides
walk freely with a fixed smooth function in place of the network, from the same noise; of the latents they end with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.cli.console import print_parts
from sfmobile.models import find_checkpoint
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.picture import Picture, labelled_sheet
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.samplers.named import NAMES, named, walkers
from sfmobile.sampling.samplers.starting import start
from sfmobile.signal import psnr
from sfmobile.tables import Table
from sfmobile.testing import SD15_SCHEDULER
from tests.sampling.pipelines import reference_pipeline
from tests.sampling.samplers.oracles import FakeNetwork, noise, scheduler_of, their_step

SHAPE = (1, 4, 64, 64)
OWN = SD15_SCHEDULER.model_copy(update={"timestep_spacing": "trailing", "set_alpha_to_one": True})
REPOSITORY = Path(__file__).resolve().parents[1]
TOOLCHAIN = REPOSITORY / ".ci/swift-toolchain"
SHEET_STEPS = (4, 8, 16)
SHEET_PROMPT = "a red apple"


def steps_of(name: str) -> int:
    """Of a walk: few for samplers of distilled models."""
    return 4 if name in ("lcm", "tcd") else 20


def step_microseconds(name: str, walks: int = 15) -> float:
    """Host time of one call's scaling and step, the best walk."""
    record, output = named(OWN, name), np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    best = float("inf")
    for _ in range(walks):
        sampler = start(record, steps_of(name), Noise(0))
        latents = output * np.float32(sampler.noise_scale)
        begun = time.perf_counter()
        for _ in range(sampler.calls):
            sampler.model_input(latents)
            latents = sampler.step(output, latents).latents
        best = min(best, (time.perf_counter() - begun) / sampler.calls)
    return best * 1e6


def swift_microseconds() -> dict[str, float]:
    """The same of every sampler in Swift, through sfbench; none without a Swift toolchain."""
    if subprocess.run([TOOLCHAIN, "find"], capture_output=True, check=False).returncode:
        return {}
    build = ("run", "swift", "build", "-c", "release", "--package-path", "ios_harness", "--product", "sfbench")
    subprocess.run([TOOLCHAIN, *build], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "sampler.json"
        record.write_text(OWN.model_dump_json(), encoding="utf-8")
        walks = [f"{name}={steps_of(name)}" for name in NAMES]
        sfbench = REPOSITORY / "ios_harness/.build/release/sfbench"
        command = [TOOLCHAIN, "exec", sfbench, "sampler-times", record, *walks]
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    times: dict[str, float] = json.loads(done.stdout)
    return times


def final_db(name: str) -> float:
    """PSNR of the latents that two free walks end with, ours and diffusers'."""
    record = named(OWN, name)
    network = FakeNetwork(record.prediction_type)
    source = Noise(7)
    ours, theirs = start(record, steps_of(name), source), scheduler_of(record, steps_of(name))
    unit, generator = noise(7, SHAPE)
    source.normal(SHAPE)
    found = unit * np.float32(ours.noise_scale)
    expected = torch.from_numpy(unit) * theirs.init_noise_sigma
    for timestep, told in zip(theirs.timesteps, ours.timesteps, strict=True):
        output = network(theirs.scale_model_input(expected, timestep).numpy(), float(timestep))
        expected, _ = their_step(record, theirs, torch.from_numpy(output), timestep, expected, generator)
        found = ours.step(network(ours.model_input(found), float(told)), found).latents
    return psnr(expected.numpy(), found)


def sheet(path: Path) -> None:
    """The built-in model's pictures of one prompt, on torch."""
    checkpoint = Checkpoint.open(find_checkpoint(Path("glyph")))
    rows: list[tuple[str, list[Picture]]] = []
    with reference_pipeline(checkpoint) as pipeline:
        for name in walkers(checkpoint.sampler):
            request = Request(SHEET_PROMPT, seed=1, sampler=name)
            rows.append((name, [pipeline.generate(replace(request, steps=count)) for count in SHEET_STEPS]))
    labelled_sheet(rows, [f"{count} steps" for count in SHEET_STEPS]).save(path)


def main() -> None:
    """Print the table; draw the sheet if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    swift = swift_microseconds()
    rows = tuple(
        (
            name,
            str(start(named(OWN, name), steps_of(name)).calls),
            f"{step_microseconds(name):.0f}",
            f"{swift[name]:.0f}" if swift else "–",
            f"{final_db(name):.0f}",
        )
        for name in NAMES
    )
    print_parts(
        Table(
            "Samplers, latents 4×64×64",
            ("sampler", "network calls", "µs a call, Python", "µs a call, Swift", "dB to diffusers at the end"),
            rows,
            text_columns=(0,),
        )
    )
    if arguments.sheet is not None:
        sheet(arguments.sheet)


if __name__ == "__main__":
    main()
