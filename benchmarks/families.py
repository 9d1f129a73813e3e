"""Every family at full size with random weights: one UNet call against diffusers in fp32, and what an export takes.

`python -m benchmarks.families --family sd1 lcm` writes a checkpoint of each, compares the UNet that we read from it
with the one that diffusers reads, and exports the whole checkpoint at 6 bits, each in a process of its own, whose peak
memory is reported. `--output FILE.json` adds the rows to those that the file holds already; `--table` prints them.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "families.json"
GATE_DB = 90.0
TEXT, TEXT_2 = "CLIP ViT-L/14", "OpenCLIP ViT-H/14"
WIDTHS = (320, 640, 1280, 1280)


@dataclass(frozen=True)
class Family:
    """A family at full size. kinds: "x" for stages with attention, from the highest resolution to the lowest.

    changes: of the UNet's config. narrow: a fraction of the channels, for a try of everything in seconds.
    """

    pipeline: str = "StableDiffusionPipeline"
    kinds: str = "xxx."
    layers: int = 2
    text: str = TEXT
    latent_size: int = 64
    changes: dict[str, Any] = field(default_factory=dict)

    def unet(self, narrow: int = 1) -> dict[str, Any]:
        """The UNet's config as diffusers writes it."""
        kinds = self.kinds
        heads: Any = 8
        if self.text == TEXT_2:
            # Of 64 channels; narrow ones divide by fewer numbers.
            heads = [width // 64 if narrow == 1 else 4 for width in WIDTHS]
        return {
            "_class_name": "UNet2DConditionModel",
            "sample_size": self.latent_size,
            "in_channels": 4,
            "block_out_channels": [width // narrow for width in WIDTHS[: len(kinds)]],
            "down_block_types": ["CrossAttnDownBlock2D" if kind == "x" else "DownBlock2D" for kind in kinds],
            "up_block_types": ["CrossAttnUpBlock2D" if kind == "x" else "UpBlock2D" for kind in reversed(kinds)],
            "layers_per_block": self.layers,
            "cross_attention_dim": {TEXT: 768, TEXT_2: 1024}[self.text] // narrow,
            "attention_head_dim": heads,
            "use_linear_projection": self.text == TEXT_2,
            **self.changes,
        }


SMALL = {"mid_block_type": None}
FAMILIES: dict[str, Family] = {
    "bk-sdm-tiny": Family(kinds="xxx", layers=1, changes=SMALL),
    "bk-sdm-small": Family(layers=1, changes=SMALL),
    "bk-sdm-base": Family(layers=1),
    "sd1": Family(),
    "sd2": Family(text=TEXT_2),
    "sd2-768-v": Family(text=TEXT_2, latent_size=96, changes={"upcast_attention": True}),
    "lcm": Family("LatentConsistencyModelPipeline", changes={"time_cond_proj_dim": 256}),
    "inpainting": Family("StableDiffusionInpaintPipeline", changes={"in_channels": 9}),
    "instruct-pix2pix": Family("StableDiffusionInstructPix2PixPipeline", changes={"in_channels": 8}),
    "depth": Family("StableDiffusionDepth2ImgPipeline", text=TEXT_2, changes={"in_channels": 5}),
}


def main() -> int:
    """Command line. Exit code 1 if a UNet isn't diffusers'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--latent-size", type=int, default=32, help="of the call that is compared; default 32")
    parser.add_argument("--narrow", type=int, default=1, choices=(1, 2, 5, 10), help="a fraction of the channels")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"default {RESULTS}")
    parser.add_argument("--table", action="store_true", help="print the file's rows and measure nothing")
    parser.add_argument("--alone", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.output.read_text())))
        return 0
    if options.alone:
        stage, folder = options.alone
        row = STAGES[stage](FAMILIES[options.family[0]], Path(folder), options)
        print(json.dumps({**row, f"{stage}_peak_bytes": peak_memory()}))
        return 0
    from sfmobile.bench.machine import describe_machine, tool_versions

    for name in options.family:
        row: dict[str, Any] = {"narrow": options.narrow} if options.narrow > 1 else {}
        with tempfile.TemporaryDirectory(prefix="sfmobile-family-") as folder:
            for stage in STAGES:
                command = [sys.executable, "-m", "benchmarks.families", "--alone", stage, folder, "--family", name]
                command += ["--latent-size", str(options.latent_size), "--narrow", str(options.narrow)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row |= json.loads(done.stdout.splitlines()[-1])
        held = json.loads(options.output.read_text()) if options.output.is_file() else {}
        rows = {**held.get("rows", {}), name: row}
        machine = describe_machine().model_dump(mode="json", exclude_none=True)
        content = {
            "machine": machine,
            "tools": tool_versions(),
            "rows": {family: rows[family] for family in FAMILIES if family in rows},
        }
        options.output.write_text(json.dumps(content, indent=2) + "\n")
        print(f"{name}: {row}", file=sys.stderr)
    return int(any(rows[name]["psnr_db"] < GATE_DB for name in options.family))


def make(family: Family, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the checkpoint, fp16, as the family's are."""
    from sfmobile.checkpoint.config import unet_layout
    from sfmobile.nets.layout import SD15_AUTOENCODER, SD15_TEXT_ENCODER
    from sfmobile.testing import write_byte_tokenizer, write_synthetic_checkpoint

    narrow = options.narrow
    config = family.unet(narrow)
    text = SD15_TEXT_ENCODER
    if family.text == TEXT_2:
        text = replace(text, hidden=1024, layers=23, heads=16, intermediate=4096, activation="gelu")
    autoencoder = SD15_AUTOENCODER
    if narrow > 1:
        hidden = text.hidden // narrow
        text = replace(text, hidden=hidden, layers=2, heads=2, intermediate=2 * hidden, vocabulary=514)
        widths = tuple(width // 4 for width in autoencoder.decoder_channels)
        autoencoder = replace(autoencoder, encoder_channels=widths, decoder_channels=widths)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    write_byte_tokenizer(tokenizer, text.vocabulary, text.max_length)
    root = folder / "checkpoint"
    write_synthetic_checkpoint(
        root,
        unet_layout=unet_layout(config, Path("config.json")),
        text_encoder_layout=text,
        autoencoder_layout=autoencoder,
        tokenizer_dir=tokenizer,
        latent_size=(family.latent_size, family.latent_size),
    )
    if config["use_linear_projection"]:
        _as_linear(root / "unet")
    (root / "unet" / "config.json").write_text(json.dumps(config, indent=2))
    index = json.loads((root / "model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps({**index, "_class_name": family.pipeline}, indent=2))
    return {}


def _as_linear(folder: Path) -> None:
    """Give the projections around attention the shape that Stable Diffusion 2 stores them in."""
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        flat = {
            name: weight.flatten(1) if name.endswith(("proj_in.weight", "proj_out.weight")) else weight
            for name, weight in weights.items()
        }
        save_file({name: weight.contiguous() for name, weight in flat.items()}, path, metadata={"format": "pt"})


def compare(family: Family, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Our UNet and diffusers', each read from the checkpoint: parameters, and PSNR of one call in fp32."""
    import torch
    from diffusers import UNet2DConditionModel

    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.sampling.time_embedding import guidance_sinusoid, sinusoid
    from sfmobile.signal import psnr

    checkpoint = Checkpoint.open(folder / "checkpoint")
    layout, size = checkpoint.unet_layout, options.latent_size
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, layout.in_channels, size, size, generator=generator)
    states = torch.randn(1, layout.cross_attention_dim, 1, 77, generator=generator)
    width = layout.guidance_embedding_dim
    guidance = None if width is None else torch.from_numpy(guidance_sinusoid(8.5, width))
    with torch.inference_mode():
        theirs = UNet2DConditionModel.from_pretrained(folder / "checkpoint", subfolder="unet").eval().float()
        condition = None if guidance is None else guidance.flatten(1)
        expected = theirs(
            latents, torch.tensor([981]), states.squeeze(2).transpose(1, 2), timestep_cond=condition
        ).sample
        del theirs
        ours = checkpoint.load("unet")
        embedding = torch.from_numpy(sinusoid([981], checkpoint.time_embedding))
        found = ours(latents, embedding, states, *(() if guidance is None else (guidance,)))
    return {
        "parameters": checkpoint.parameters("unet"),
        "compared_at": size,
        "psnr_db": round(psnr(expected.numpy(), found.numpy()), 1),
    }


def export(family: Family, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of the whole bundle at 6 bits, without golden vectors."""
    import sfmobile

    start = time.perf_counter()
    made = sfmobile.export(folder / "checkpoint", folder / "bundle", bits=6, golden=False)
    seconds = time.perf_counter() - start
    records = made.manifest.components
    found = {
        "export_seconds": round(seconds, 1),
        "bundle_bytes": sum(record.bytes for record in records.values()),
        "component_bytes": {name: record.bytes for name, record in records.items()},
    }
    shutil.rmtree(folder / "bundle")
    return found


STAGES: dict[str, Callable[[Family, Path, argparse.Namespace], dict[str, Any]]] = {
    "make": make,
    "compare": compare,
    "export": export,
}


def table(held: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| family | UNet's parameters | UNet call against diffusers, fp32 | export, 6 bits | bundle | of it the UNet | "
        "peak memory of the export |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in held["rows"].items():
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.0f} M | {row['psnr_db']:.1f} dB | {row['export_seconds']:.1f} s | "
            f"{row['bundle_bytes'] / 1e6:.0f} MB | {row['component_bytes']['unet'] / 1e6:.0f} MB | "
            f"{row['export_peak_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def peak_memory() -> int:
    """The most that this process has held so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
