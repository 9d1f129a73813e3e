"""Our networks beside transformers' and diffusers' at full Stable Diffusion 1.5 size, in fp32 on the CPU.

    python benchmarks/parity.py [--component unet ...] [--latent-size 64] [--json]

The same random weights (norms away from 1 and 0) go into both; every attention form of ours must give the other's
result at 90 dB PSNR or more. Weights are shared between the two, so the UNet takes 3.5 GB. Exit code 1 below the gate.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.checkpoint.config import autoencoder_config, text_encoder_config, unet_config
from sfmobile.checkpoint.weights import PartName, stored_names
from sfmobile.nets.attention import ATTENTION_FORMS, set_attention_form
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import SD15_AUTOENCODER, SD15_TEXT_ENCODER, SD15_UNET
from sfmobile.nets.text_encoder import TextEncoder, causal_mask
from sfmobile.nets.unet import UNet
from sfmobile.sampling.time_embedding import sinusoid
from sfmobile.signal import psnr
from sfmobile.testing import random_weight

GATE_DB = 90.0
BATCH = 2


@dataclass(frozen=True)
class Row:
    """One comparison. Seconds are wall time of one call: the oracle's and ours."""

    component: str
    oracle: str
    attention: str
    parameters: int
    psnr_db: float
    oracle_seconds: float
    seconds: float


def main() -> int:
    """Compare all components, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--component", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), help="what to compare"
    )
    parser.add_argument("--latent-size", type=int, default=64, help="height and width of the latents")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args()
    rows: list[Row] = []
    with torch.no_grad():
        for component in options.component:
            for row in COMPARISONS[component](options.latent_size):
                rows.append(row)
                print(f"{row.component} {row.attention}: {row.psnr_db:.1f} dB", file=sys.stderr)
            gc.collect()
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print_table(rows)
    return int(any(row.psnr_db < GATE_DB for row in rows))


def text_encoder(_: int) -> Iterator[Row]:
    """CLIP ViT-L/14's text half on one prompt's worth of ids."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        ours = TextEncoder(SD15_TEXT_ENCODER)
    config = text_encoder_config(SD15_TEXT_ENCODER)
    theirs = CLIPTextModel(CLIPTextConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    share_weights("text_encoder", ours, theirs)
    ours.causal_mask = causal_mask(SD15_TEXT_ENCODER.max_length)
    ids = torch.randint(0, SD15_TEXT_ENCODER.vocabulary, (1, 77), generator=torch.Generator().manual_seed(0))

    def oracle() -> Tensor:
        states: Tensor = theirs(ids).last_hidden_state
        return states.transpose(1, 2).unsqueeze(2)

    yield from compare_forms("text_encoder", "transformers", ours, oracle, lambda: ours(ids))


def unet(size: int) -> Iterator[Row]:
    """The UNet on pure noise at timestep 981, guidance batch 2."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        ours = UNet(SD15_UNET)
        theirs = UNet2DConditionModel.from_config(unet_config(SD15_UNET, (size, size)))
    share_weights("unet", ours, theirs)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(BATCH, 4, size, size, generator=generator)
    states = torch.randn(BATCH, SD15_UNET.cross_attention_dim, 1, 77, generator=generator)
    embedding = torch.from_numpy(sinusoid([981] * BATCH, TimeEmbeddingRecord(dimension=SD15_UNET.down[0].channels)))

    def oracle() -> Tensor:
        output: Tensor = theirs(latents, torch.tensor([981] * BATCH), states.squeeze(2).transpose(1, 2)).sample
        return output

    yield from compare_forms("unet", "diffusers", ours, oracle, lambda: ours(latents, embedding, states))


def decoder(size: int) -> Iterator[Row]:
    """The image decoder on noise."""
    ours, theirs = autoencoder_half("decoder")
    latents = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    yield from compare_forms("decoder", "diffusers", ours, lambda: theirs.decode(latents).sample, lambda: ours(latents))


def encoder(size: int) -> Iterator[Row]:
    """The image encoder on noise."""
    ours, theirs = autoencoder_half("encoder")
    side = size * SD15_AUTOENCODER.downsampling
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    yield from compare_forms(
        "encoder", "diffusers", ours, lambda: theirs.encode(image).latent_dist.parameters, lambda: ours(image)
    )


def autoencoder_half(part: PartName) -> tuple[nn.Module, Any]:
    """Our half of the autoencoder, and diffusers' whole one with the same weights in that half."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        ours = (Decoder if part == "decoder" else Encoder)(SD15_AUTOENCODER)
        theirs = AutoencoderKL.from_config(autoencoder_config(SD15_AUTOENCODER, ("decoder", "encoder"), 512))
    share_weights(part, ours, theirs)
    return ours, theirs


def share_weights(part: PartName, ours: nn.Module, theirs: nn.Module) -> None:
    """Random weights in both networks, one copy in memory."""
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    weights: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    for key, value in ours.state_dict().items():
        weights[key] = random_weight(f"{part}.{key}", tuple(value.shape), seed=0)
        name = next(name for name in stored_names(part, key) if name in shapes)
        # Some of theirs are linear layers where ours are 1x1 convolutions.
        stored[name] = weights[key].reshape(shapes[name])
    ours.load_state_dict(weights, assign=True)
    unexpected = theirs.load_state_dict(stored, strict=False, assign=True).unexpected_keys
    assert not unexpected, unexpected
    ours.eval()
    theirs.eval()


def compare_forms(
    component: str, oracle_name: str, ours: nn.Module, oracle: Callable[[], Tensor], call: Callable[[], Tensor]
) -> Iterator[Row]:
    """The oracle's result once, ours in every attention form."""
    start = time.perf_counter()
    expected = oracle()
    oracle_seconds = time.perf_counter() - start
    for form in ATTENTION_FORMS:
        set_attention_form(ours, form)
        start = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - start
        parameters = sum(parameter.numel() for parameter in ours.parameters())
        ratio = psnr(expected.numpy(), found.numpy())
        yield Row(component, oracle_name, form, parameters, ratio, oracle_seconds, seconds)


def machine() -> str:
    """What produced the seconds."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()} {platform.system()}"


def print_table(rows: list[Row]) -> None:
    """The rows for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Parity at full Stable Diffusion 1.5 size, fp32", caption=f"One call each; {machine()}")
    for title in ("component", "against", "attention"):
        table.add_column(title)
    for title in ("parameters", "PSNR", "theirs", "ours"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.component,
            row.oracle,
            row.attention,
            f"{row.parameters:,}",
            f"{row.psnr_db:.1f} dB",
            f"{row.oracle_seconds:.2f} s",
            f"{row.seconds:.2f} s",
        )
    console = Console()
    # A pipe reports 80 columns, too few for the figures.
    Console(width=max(console.width, 110)).print(table)


COMPARISONS: dict[str, Callable[[int], Iterator[Row]]] = {
    "text_encoder": text_encoder,
    "unet": unet,
    "decoder": decoder,
    "encoder": encoder,
}

if __name__ == "__main__":
    sys.exit(main())
