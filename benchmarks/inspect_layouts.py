"""What linter and estimate say of full-size networks: `sfmobile inspect` on random checkpoints of their layouts.

    python benchmarks/inspect_layouts.py -o benchmarks/results/inspect                   sd15 and snapfusion
    python benchmarks/inspect_layouts.py -o DIR --layout snapfusion --device iphone-13   one of them, another device

Needs 4 GB of disk for a while and about a minute of processor time each. Weights are random: neither findings nor
times depend on their values.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from sfmobile.nets.layout import (
    SD15_AUTOENCODER,
    SD15_TEXT_ENCODER,
    SD15_UNET,
    SNAPFUSION_AUTOENCODER,
    SNAPFUSION_UNET,
)
from sfmobile.testing import write_synthetic_checkpoint

TOKENIZER = Path(__file__).parents[1] / "models" / "glyph" / "tokenizer"
LAYOUTS = {"sd15": (SD15_UNET, SD15_AUTOENCODER), "snapfusion": (SNAPFUSION_UNET, SNAPFUSION_AUTOENCODER)}


def sfmobile(*arguments: object, folder: Path) -> str:
    """Run a command in `folder`; its stdout."""
    command = [sys.executable, "-m", "sfmobile", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def inspect(name: str, bits: int, device: str, output: Path) -> None:
    """Export a random checkpoint of a layout and write what `inspect` prints and draws."""
    unet, autoencoder = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle = Path(scratch), f"{name}-{bits}"
        write_synthetic_checkpoint(
            folder / name,
            unet_layout=unet,
            text_encoder_layout=SD15_TEXT_ENCODER,
            autoencoder_layout=autoencoder,
            tokenizer_dir=TOKENIZER,
        )
        sfmobile(
            "export", name, "-o", bundle, "--bits", bits, "--attention", "split-einsum", "--no-golden", folder=folder
        )
        picture = output / f"{bundle}.png"
        text = sfmobile("inspect", bundle, "--device", device, "--plot", picture, folder=folder)
        (output / f"{bundle}.txt").write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", "utf-8")


def main() -> None:
    """Inspect each layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", action="append", choices=sorted(LAYOUTS))
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--device", default="iphone-14-pro")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    for name in given.layout or LAYOUTS:
        inspect(name, given.bits, given.device, output)
        print(output / f"{name}-{given.bits}.txt")


if __name__ == "__main__":
    main()
