"""The latent pool: compositions encoded and captions tokenised once, for every stage that learns from latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.train import processes
from sfmobile.train.latents import LatentPool
from sfmobile.train.record import POOL, StageRecord, save_with_record
from sfmobile.train.stage import StageConfig, Workplace

AUTOENCODER = "autoencoder"


@dataclass(frozen=True)
class LatentsConfig(StageConfig, kind="latents"):
    """A latent pool: how many compositions to encode, from which seed; pictures: settings file of the selection;
    layout: that of the run's autoencoder."""

    count: int
    pictures: str = "pictures"
    layout: str = "glyph-teacher"
    batch_size: int = 256
    seed: int = 1000

    result: ClassVar[str] = POOL

    def sources(self) -> tuple[str, ...]:
        """The run's autoencoder."""
        return (AUTOENCODER,)

    @torch.no_grad()
    def run(self, name: str, place: Workplace) -> None:
        """Encode `count` compositions, unless they are there."""
        from sfmobile.train.data.tokens import CaptionTokenizer

        run = place.run
        if run.is_done(name, self.result):
            return
        pictures = place.pictures(self.pictures)
        encoder = run.encoder(AUTOENCODER, self.layout).to(run.device).eval()
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        tokenizer = CaptionTokenizer(run.networks.text_encoder.max_length)
        scale = encoder.layout.scaling_factor
        latents, ids = [], []
        batches = -(-self.count // self.batch_size)
        for index in range(batches):
            images, captions = pictures.batch(index, self.batch_size, self.seed)
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
                mean = encoder(images.to(run.device)).chunk(2, dim=1)[0]
            latents.append((mean * scale).half())
            ids.append(torch.as_tensor(tokenizer.encode_batch(captions)).int())
            if place.count is not None:
                place.count(index + 1, batches)
        empty = torch.as_tensor(tokenizer.encode_batch([""])).int()[0]
        pool = LatentPool(torch.cat(latents), torch.cat(ids), empty)
        channels, height, width = pool.latents.shape[1:]
        record = LatentsRecord(
            channels=channels,
            height=height,
            width=width,
            pixels_per_latent=encoder.layout.downsampling,
            scaling_factor=scale,
        )
        if processes.rank() == 0:
            stage = StageRecord(kind=self.kind, latents=record)
            save_with_record(run.root / name / self.result, pool.tensors(), stage)
        processes.wait()
