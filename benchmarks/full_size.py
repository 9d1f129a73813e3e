"""Full Stable Diffusion 1.5 size: export all three components, then compare them with the torch networks.

    python benchmarks/full_size.py [--bits none|6] [--attention original] [--target ios17] [--cache DIR] [--json]

The checkpoint is random (norms' affine parameters too), made once under --cache. The export runs as its own process,
watched from outside; so does each comparison: torch in fp32 against the package in the `mil` runtime, in fp32 and in
fp16 evaluation, the UNet at batch 2 on 64x64 latents. Exit code 1 if an unpalettized component is below 90 dB in fp32
or 65 dB in fp16 evaluation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

from full_checkpoint import CACHE, full_checkpoint
from process_tree import run_measured

GATES = {"fp32": 90.0, "fp16": 65.0}


def main() -> int:
    """Export, compare, print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", default="none")
    parser.add_argument("--attention", default="split-einsum")
    parser.add_argument("--target", default="ios17")
    parser.add_argument("--component", nargs="+", default=["text_encoder", "unet", "decoder"])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        print(json.dumps(compare(full_checkpoint(options.cache), options.cache / "full-size", options.compare)))
        return 0
    checkpoint = full_checkpoint(options.cache)
    bundle = options.cache / "full-size"
    shutil.rmtree(bundle, ignore_errors=True)
    wanted = [argument for name in options.component for argument in ("--component", name)]
    exported = run_measured(
        [
            sys.executable, "-m", "sfmobile", "export", checkpoint, "-o", bundle, "--json", "--no-golden",
            "--bits", options.bits, "--attention", options.attention, "--target", options.target, *wanted,
        ]
    )  # fmt: skip
    parts = json.loads(exported.output)["components"]
    for name in options.component:
        same = [sys.executable, __file__, "--cache", options.cache, "--compare", name]
        compared = run_measured(same)
        parts[name] |= json.loads(compared.output)
        parts[name]["compare_peak_anonymous"] = compared.peak_anonymous
    result = {
        "machine": machine(),
        "options": {key: getattr(options, key) for key in ("bits", "attention", "target")},
        "export_seconds": exported.seconds,
        "export_processor_seconds": exported.processor_seconds,
        "export_peak_anonymous": exported.peak_anonymous,
        "export_peak_file": exported.peak_file,
        "components": parts,
    }
    report(result, options.json)
    passed = options.bits != "none" or all(
        part[precision] >= gate for part in parts.values() for precision, gate in GATES.items()
    )
    return int(not passed)


def compare(checkpoint: Path, bundle: Path, name: str) -> dict[str, float]:
    """PSNR of one component against its network, per evaluation, and seconds of one call of each."""
    import torch

    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.mlpackage.program import load_program
    from sfmobile.runtime.mil.evaluate import Evaluator
    from sfmobile.signal import psnr

    opened = Bundle.open(bundle)
    record = next(record for key, record in opened.manifest.components.items() if key == name)
    torch.manual_seed(0)
    inputs = {
        item.name: torch.randint(0, 49407, item.shape, dtype=torch.int32)
        if item.dtype == "int32"
        else torch.randn(item.shape).half()
        for item in record.inputs
    }
    result: dict[str, float] = {}
    net = Checkpoint.open(checkpoint).load(name)
    with torch.inference_mode():
        start = time.perf_counter()
        expected = net(*(value.float() if value.is_floating_point() else value for value in inputs.values())).numpy()
        result["torch_seconds"] = time.perf_counter() - start
    del net
    for precision in GATES:
        evaluator = Evaluator(load_program(opened.root / record.package), precision)
        start = time.perf_counter()
        (found,) = evaluator(inputs).values()
        result[f"mil_{precision}_seconds"] = time.perf_counter() - start
        result[precision] = psnr(expected, found)
        del evaluator
    return result


def machine() -> dict[str, object]:
    """The machine and the versions behind the figures."""
    from sfmobile.bench.machine import describe_machine

    versions = {name: version(name) for name in ("torch", "coremltools", "numpy", "numba")}
    return {**describe_machine().model_dump(), "versions": versions}


def report(result: dict[str, object], as_json: bool) -> None:
    """Print the result."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    parts = result["components"]
    print(f"{result['machine']}\n{result['options']}")
    anonymous, file = (result[f"export_peak_{kind}"] / 1e9 for kind in ("anonymous", "file"))
    print(
        f"export: {result['export_seconds']:.1f} s ({result['export_processor_seconds']:.1f} s of processor time), "
        f"peak {anonymous:.2f} GB anonymous and {file:.2f} GB file-backed"
    )
    print(f"{'component':14}{'parameters':>14}{'MB':>9}{'export s':>10}{'fp32 dB':>9}{'fp16 dB':>9}")
    for name, part in parts.items():
        print(
            f"{name:14}{part['parameters']:>14,}{part['bytes'] / 1e6:>9.1f}{part['seconds']:>10.1f}"
            f"{part['fp32']:>9.1f}{part['fp16']:>9.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
