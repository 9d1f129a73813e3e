"""Stages of a run made up from networks, with the records that stages leave."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train.glyph import ZERO_TERMINAL_SCHEDULE
from sfmobile.train.latents import LatentPool
from sfmobile.train.record import POOL, WEIGHTS, StageRecord, UNetRecord, save_with_record

LATENTS = LatentsRecord(channels=4, height=8, width=8, pixels_per_latent=2, scaling_factor=1.0)


def write_stage(
    root: Path,
    name: str,
    *,
    unet: UNet | None = None,
    text_encoder: TextEncoder | None = None,
    encoder: Encoder | None = None,
    decoder: Decoder | None = None,
    text_encoder_from: str | None = None,
    schedule: DDIMRecord = ZERO_TERMINAL_SCHEDULE,
    latents: LatentsRecord = LATENTS,
) -> None:
    """RUN/<name>/weights.safetensors of these networks."""
    nets: dict[str, nn.Module | None] = {
        "unet": unet,
        "text_encoder": text_encoder,
        "encoder": encoder,
        "decoder": decoder,
    }
    record = StageRecord(
        kind="made up",
        unet=unet
        and UNetRecord(layout=unet.layout, schedule=schedule, latents=latents, text_encoder_from=text_encoder_from),
        text_encoder=text_encoder and text_encoder.layout,
        encoder=encoder and encoder.layout,
        decoder=decoder and decoder.layout,
    )
    tensors = {f"{part}.{key}": value for part, net in nets.items() if net for key, value in net.state_dict().items()}
    save_with_record(root / name / WEIGHTS, tensors, record)


def write_pool(root: Path, pool: LatentPool, name: str = "latents", latents: LatentsRecord = LATENTS) -> None:
    """RUN/<name>/pool.safetensors."""
    save_with_record(root / name / POOL, pool.tensors(), StageRecord(kind="latents", latents=latents))
