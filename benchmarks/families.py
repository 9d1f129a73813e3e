"""The families' UNets at full size with random weights: one fp32 call against diffusers, and what an export takes.

`python -m benchmarks.families --family sd1 lcm` measures each family in a process of its own, whose peak memory it
reports; `--output FILE.json` adds the rows to those that the file holds already.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "families.json"
THREE = (320, 640, 1280)
FOUR = (320, 640, 1280, 1280)


def unet(kinds: str = "xxx.", layers: int = 2, **changes: Any) -> dict[str, Any]:
    """A config as diffusers writes it; kinds: "x" for stages with attention, from the highest resolution."""
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": 4,
        "block_out_channels": list(FOUR if len(kinds) == 4 else THREE),
        "down_block_types": ["CrossAttnDownBlock2D" if kind == "x" else "DownBlock2D" for kind in kinds],
        "up_block_types": ["CrossAttnUpBlock2D" if kind == "x" else "UpBlock2D" for kind in reversed(kinds)],
        "layers_per_block": layers,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        **changes,
    }


SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "bk-sdm-tiny": unet("xxx", 1, mid_block_type=None),
    "bk-sdm-small": unet(layers=1, mid_block_type=None),
    "bk-sdm-base": unet(layers=1),
    "sd1": unet(),
    "sd2": unet(**SD2),
    "sd2-768-v": unet(**{**SD2, "sample_size": 96, "upcast_attention": True}),
    "lcm": unet(time_cond_proj_dim=256),
    "inpainting": unet(in_channels=9),
    "instruct-pix2pix": unet(in_channels=8),
    "depth": unet(**SD2, in_channels=5),
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--latent-size", type=int, default=32, help="of the call that is compared; default 32")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"default {RESULTS}")
    parser.add_argument("--no-export", action="store_true", help="compare alone")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.family[0], options.latent_size, not options.no_export)))
        return 0
    for name in options.family:
        command = [sys.executable, "-m", "benchmarks.families", "--alone", "--family", name]
        command += ["--latent-size", str(options.latent_size), *(["--no-export"] if options.no_export else [])]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        held = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": {}}
        held["machine"] = f"{platform.machine()} {platform.system()}, shared with other work"
        held["rows"][name] = row
        options.output.write_text(json.dumps(held, indent=2) + "\n")
        print(f"{name}: {row}", file=sys.stderr)
    return 0


def measure(name: str, size: int, export: bool) -> dict[str, Any]:
    """One family's row: parameters, PSNR of one call against diffusers, seconds and bytes of an export, peak memory."""
    import torch
    from diffusers import UNet2DConditionModel

    from benchmarks.parity import share_weights
    from sfmobile.bundle.manifest import TimeEmbeddingRecord
    from sfmobile.checkpoint.config import unet_layout
    from sfmobile.nets.unet import UNet
    from sfmobile.sampling.time_embedding import guidance_sinusoid, sinusoid
    from sfmobile.verify.signal import psnr

    config = FAMILIES[name]
    layout = unet_layout(config, Path(name))
    with torch.device("meta"):
        ours, theirs = UNet(layout), UNet2DConditionModel.from_config(config)
    share_weights("unet", ours, theirs)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, layout.in_channels, size, size, generator=generator)
    states = torch.randn(1, layout.cross_attention_dim, 1, 77, generator=generator)
    embedding = torch.from_numpy(sinusoid([981], TimeEmbeddingRecord(dimension=layout.down[0].channels)))
    width = layout.guidance_embedding_dim
    guidance = None if width is None else torch.from_numpy(guidance_sinusoid(8.5, width))
    with torch.inference_mode():
        condition = None if guidance is None else guidance.flatten(1)
        expected = theirs(
            latents, torch.tensor([981]), states.squeeze(2).transpose(1, 2), timestep_cond=condition
        ).sample
        found = ours(latents, embedding, states, guidance)
    row: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in ours.parameters()),
        "latent_size": size,
        "psnr_db": round(psnr(expected.numpy(), found.numpy()), 1),
        "peak_memory_of_the_comparison_bytes": peak_memory(),
    }
    del ours, theirs
    return row | (export_row(layout) if export else {})


def export_row(layout: Any) -> dict[str, Any]:
    """Seconds and bytes of a 16-bit Core ML package for 64x64 latents, from weights in fp16."""
    from sfmobile.bundle.manifest import TensorRecord
    from sfmobile.export.network import NetworkPackage
    from sfmobile.export.package import PackageMetadata
    from sfmobile.nets.attention import set_attention_form
    from sfmobile.nets.unet import UNet

    def half(name: str, *shape: int) -> TensorRecord:
        return TensorRecord(name=name, shape=shape, dtype="float16")

    net = UNet(layout).half().eval()
    set_attention_form(net, "split-einsum")
    inputs = [
        half("latents", 1, layout.in_channels, 64, 64),
        half("time_embedding", 1, layout.down[0].channels, 1, 1),
        half("encoder_hidden_states", 1, layout.cross_attention_dim, 1, 77),
    ]
    if layout.guidance_embedding_dim is not None:
        inputs.append(half("guidance_embedding", 1, layout.guidance_embedding_dim, 1, 1))
    outputs = (half("model_output", 1, layout.out_channels, 64, 64),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "UNet.mlpackage"
        start = time.perf_counter()
        NetworkPackage(tuple(inputs), outputs, "ios17", PackageMetadata(description="UNet")).write(net, path)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"export_seconds": round(seconds, 1), "package_bytes": size, "peak_memory_bytes": peak_memory()}


def peak_memory() -> int:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
