"""Export of the full-size UNet, 6 bits, batch 2, 64x64: sfmobile beside the usual way, each in processes of its own.

    python benchmarks/export_speed.py [--ours-only] [--signal] [--cache DIR] [--json]

ours      `sfmobile export --component unet`, both attention forms, and the whole pipeline; from safetensors on disk to
          a bundle with verified checksums. First with an empty cache, then again, and at other bits, with what the
          first left there.
limit     the bytes that an export must move: the checkpoint's weights read, as many bytes as the bundle has written.
baseline  what users of the peers do: diffusers' UNet2DConditionModel in fp32, `torch.jit.trace`, `ct.convert` to
          float16, and, in a second process as their scripts do, `ct.optimize.coreml.palettize_weights` with 6-bit
          k-means. Needs 8 GB of memory and several minutes.

--signal also executes both 6-bit packages in the `mil` runtime and compares them with the fp32 network.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from full_checkpoint import CACHE, full_checkpoint
from full_size import machine
from process_tree import Measured, run_measured

STAGES = ("convert", "palettize", "signal-baseline", "signal-ours")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--signal", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.cache / "export-speed"
    checkpoint = full_checkpoint(options.cache)
    if options.stage:
        print(json.dumps(run_stage(options.stage, checkpoint, work)))
        return 0
    work.mkdir(parents=True, exist_ok=True)
    rows = Rows()
    shutil.rmtree(work / "cache", ignore_errors=True)
    # What is kept between exports is this run's own.
    os.environ["SFMOBILE_CACHE"] = str(work / "cache")
    whole = ["text_encoder", "unet", "decoder"]
    for label, attention, components, bits in (
        ("ours, UNet, original", "original", ["unet"], 6),
        ("ours, UNet, split-einsum", "split-einsum", ["unet"], 6),
        ("ours, UNet, split-einsum, again", "split-einsum", ["unet"], 6),
        ("ours, UNet, split-einsum, again at 4 bits", "split-einsum", ["unet"], 4),
        ("ours, whole pipeline, original", "original", whole, 6),
        ("ours, whole pipeline, original, again", "original", whole, 6),
    ):
        if label == "ours, whole pipeline, original":
            shutil.rmtree(work / "cache")
        rows[label] = summary(export_ours(checkpoint, work / "ours", attention, components, bits))
    rows["limit: read the weights, write the bundle"] = moved(checkpoint, work / "ours")
    if not options.ours_only:
        same = [sys.executable, __file__, "--cache", options.cache, "--stage"]
        converted = run_measured([*same, "convert"])
        rows["baseline: trace and convert"] = summary(converted)
        palettized = run_measured([*same, "palettize"])
        rows["baseline: palettize"] = summary(palettized)
        rows["baseline, UNet"] = {
            key: (sum if "seconds" in key else max)(summary(run)[key] for run in (converted, palettized))
            for key in summary(converted)
        }
    result: dict[str, object] = {"machine": machine(), "runs": rows}
    if options.signal:
        export_ours(checkpoint, work / "ours", "original", ["unet"])
        stages = ["signal-ours"] + ([] if options.ours_only else ["signal-baseline"])
        result["signal"] = {
            stage: json.loads(
                run_measured([sys.executable, __file__, "--cache", options.cache, "--stage", stage]).output
            )
            for stage in stages
        }
    report(result, rows, options.json)
    return 0


class Rows(dict[str, dict[str, float]]):
    """Rows of the table, said as they come: the whole run takes ten minutes."""

    def __setitem__(self, label: str, row: dict[str, float]) -> None:
        super().__setitem__(label, row)
        print(f"{label}: {json.dumps(row)}", file=sys.stderr, flush=True)


def moved(checkpoint: Path, bundle: Path) -> dict[str, float]:
    """Seconds to read the checkpoint's weights and to write the bundle's bytes, whatever they are."""
    size = package_bytes(bundle)
    begun = time.perf_counter()
    for path in checkpoint.rglob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
    with (bundle.parent / "copied").open("wb") as file:
        piece = os.urandom(1 << 24)
        for _ in range(size // len(piece) + 1):
            file.write(piece)
    seconds = time.perf_counter() - begun
    (bundle.parent / "copied").unlink()
    return {"seconds": seconds, "processor_seconds": seconds, "peak_anonymous": 0, "peak_file": 0}


def export_ours(checkpoint: Path, bundle: Path, attention: str, components: list[str], bits: int = 6) -> Measured:
    """One export into an empty directory."""
    shutil.rmtree(bundle, ignore_errors=True)
    wanted = [argument for name in components for argument in ("--component", name)]
    return run_measured(
        [
            sys.executable, "-m", "sfmobile", "export", checkpoint, "-o", bundle, "--bits", str(bits), "--no-golden",
            "--attention", attention, "--json", *wanted,
        ]
    )  # fmt: skip


def summary(run: Measured) -> dict[str, float]:
    """The figures of a run."""
    return {
        "seconds": run.seconds,
        "processor_seconds": run.processor_seconds,
        "peak_anonymous": run.peak_anonymous,
        "peak_file": run.peak_file,
    }


def run_stage(stage: str, checkpoint: Path, work: Path) -> dict[str, float]:
    """One stage, in a process of its own."""
    from sfmobile.export.quiet import quiet

    with quiet():
        if stage == "convert":
            return convert_baseline(checkpoint, work)
        if stage == "palettize":
            return palettize_baseline(work)
        return signal(checkpoint, work, ours=stage == "signal-ours")


def convert_baseline(checkpoint: Path, work: Path) -> dict[str, float]:
    """Trace and convert the usual way."""
    import coremltools as ct
    import numpy as np
    import torch
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel.from_pretrained(checkpoint / "unet", torch_dtype=torch.float32).eval()

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return self.net(sample, timestep, states, return_dict=False)[0]

    examples = {
        "sample": torch.randn(2, 4, 64, 64),
        "timestep": torch.full((2,), 500.0),
        "encoder_hidden_states": torch.randn(2, 77, 768),
    }
    with torch.no_grad():
        traced = torch.jit.trace(Positional(), tuple(examples.values()))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(name=name, shape=value.shape, dtype=np.float16) for name, value in examples.items()],
        outputs=[ct.TensorType(name="noise_pred", dtype=np.float16)],
        minimum_deployment_target=ct.target.iOS17,
        compute_units=ct.ComputeUnit.CPU_AND_NE,
        skip_model_load=True,
    )
    path = work / "baseline.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    model.save(str(path))
    return {"bytes": package_bytes(path)}


def palettize_baseline(work: Path) -> dict[str, float]:
    """Palettize the usual way."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(work / "baseline.mlpackage"), skip_model_load=True)
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(mode="kmeans", nbits=6))
    path = work / "baseline-6bit.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    cto.palettize_weights(model, config).save(str(path))
    return {"bytes": package_bytes(path)}


def signal(checkpoint: Path, work: Path, *, ours: bool) -> dict[str, float]:
    """PSNR of a 6-bit package against the fp32 network on the same inputs, in both evaluations of `mil`."""
    import numpy as np
    import torch

    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.mlpackage.program import load_program
    from sfmobile.runtime.mil.evaluate import Evaluator
    from sfmobile.sampling.time_embedding import sinusoid
    from sfmobile.signal import psnr

    opened = Checkpoint.open(checkpoint)
    torch.manual_seed(0)
    latents, states = torch.randn(2, 4, 64, 64).half(), torch.randn(2, 768, 1, 77).half()
    embedding = sinusoid(np.array([981, 981]), opened.time_embedding)
    with torch.inference_mode():
        net = opened.load("unet")
        expected = net(latents.float(), torch.from_numpy(embedding).float(), states.float()).numpy()
        del net
    if ours:
        path = work / "ours" / "UNet.mlpackage"
        inputs = {"latents": latents, "time_embedding": embedding, "encoder_hidden_states": states}
    else:
        path = work / "baseline-6bit.mlpackage"
        rows = states[:, :, 0].transpose(1, 2).contiguous()
        inputs = {"sample": latents, "timestep": torch.full((2,), 981.0), "encoder_hidden_states": rows}
    result = {"bytes": package_bytes(path)}
    for precision in ("fp32", "fp16"):
        (found,) = Evaluator(load_program(path), precision)(inputs).values()
        result[f"{precision}_db"] = psnr(expected, found)
    return result


def package_bytes(path: Path) -> int:
    """Size of a package."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def report(result: dict[str, object], rows: dict[str, dict[str, float]], as_json: bool) -> None:
    """Print the result."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"])
    print(f"{'':38}{'seconds':>9}{'processor s':>13}{'GB anonymous':>14}{'GB file':>9}")
    for label, row in rows.items():
        memory = f"{row['peak_anonymous'] / 1e9:>14.2f}{row['peak_file'] / 1e9:>9.2f}"
        print(f"{label:38}{row['seconds']:>9.1f}{row['processor_seconds']:>13.1f}{memory}")
    if "baseline, UNet" in rows:
        baseline, ours = rows["baseline, UNet"], rows["ours, UNet, original"]
        ratios = [f"{baseline[key] / ours[key]:.1f}x {name}" for key, name in RATIOS.items()]
        print(f"baseline / ours: {', '.join(ratios)}")
    for stage, figures in dict(result.get("signal", {})).items():
        print(f"{stage}: {figures}")


RATIOS = {"seconds": "the time", "processor_seconds": "the processor time", "peak_anonymous": "the anonymous memory"}


if __name__ == "__main__":
    sys.exit(main())
