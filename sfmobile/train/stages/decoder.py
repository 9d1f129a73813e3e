"""Decoder distillation (SnapFusion sec. 3.2): the half-width decoder learns the full one's pictures, by pixel MSE.

The latents are the text-to-image model's own, since those are what it will decode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.autoencoder import Decoder
from sfmobile.train.config import LoopConfig
from sfmobile.train.randomness import generator_for
from sfmobile.train.record import StageRecord, renamed
from sfmobile.train.sampler import fresh_noise, sample_latents
from sfmobile.train.stage import StageConfig, Workplace
from sfmobile.train.stages.latents import AUTOENCODER
from sfmobile.train.state import load_tensors, save_tensors


@dataclass(frozen=True)
class DecoderConfig(StageConfig, kind="decoder"):
    """A decoder-distillation stage.

    latents_from: the stage whose UNet samples the latents, for captions of the latents stage `pool`; latents: how
    many, with `sampling_steps` DDIM steps at `guidance_scale`; perceptual_weight adds LPIPS between student and
    teacher pictures (0 = the paper's loss); start_from: an earlier decoder stage of the same layout to go on from.
    """

    loop: LoopConfig
    layout: str
    teacher_layout: str
    latents_from: str = "teacher"
    start_from: str | None = None
    pool: str = "latents"
    latents: int = 8192
    sampling_steps: int = 50
    guidance_scale: float = 3.0
    perceptual_weight: float = 0.0

    def sources(self) -> tuple[str, ...]:
        """The run's autoencoder, what the latents are sampled with, and the decoder that it goes on from."""
        stages = (AUTOENCODER, self.pool, self.latents_from, self.start_from)
        return tuple(stage for stage in stages if stage is not None)

    def run(self, name: str, place: Workplace) -> None:
        """Distil on the text-to-image model's own latents."""
        run = place.run
        latents = self._sampled_latents(name, place)
        teacher = run.decoder(AUTOENCODER, self.teacher_layout).eval()
        perceptual = place.perceptual() if self.perceptual_weight > 0 else None
        layout = replace(run.networks.autoencoder(self.layout), scaling_factor=teacher.layout.scaling_factor)
        student = Decoder(layout) if self.start_from is None else run.decoder(self.start_from, self.layout)
        objective = DecoderObjective(teacher, student, perceptual, self.perceptual_weight)
        weights = place.train(name, DecoderTraining(name, self, objective, latents), self.loop)
        run.leave(name, renamed(weights, "student.", "decoder."), StageRecord(kind=self.kind, decoder=layout))

    @torch.no_grad()
    def _sampled_latents(self, name: str, place: Workplace) -> Tensor:
        """Latents of the model, as its decoder takes them, sampled once and kept."""
        run = place.run
        path = run.root / name / "latents.safetensors"
        if path.exists():
            return load_tensors(path)[0]["latents"].to(run.device)
        pool = run.pool(self.pool)
        model = run.denoiser(self.latents_from)
        empty = model.text_encoder(pool.empty_ids.long()[None])
        rows = []
        batch_size = min(512, self.latents)
        for index in range(-(-self.latents // batch_size)):
            _, ids = pool.batch(index, batch_size, seed=99)
            noise = fresh_noise((batch_size, *pool.latents.shape[1:]), run.device, name, self.loop.seed, index)
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
                made = sample_latents(
                    model.unet,
                    model.schedule,
                    model.text_encoder(ids),
                    empty,
                    steps=self.sampling_steps,
                    guidance_scale=self.guidance_scale,
                    noise=noise,
                )
            rows.append((made / model.latents.scaling_factor).half())
        latents = torch.cat(rows)[: self.latents]
        save_tensors(path, {"latents": latents})
        return latents


class DecoderObjective(nn.Module):
    """||student(z) - teacher(z)||^2."""

    def __init__(self, teacher: Decoder, student: Decoder, perceptual: nn.Module | None, weight: float) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student = student
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False)
        self.weight = weight

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """latents (B, 4, h, w), already divided by the scaling factor."""
        with torch.no_grad():
            wanted = self.teacher(latents).float()
        pictures = self.student(latents).float()
        mse = F.mse_loss(pictures, wanted)
        if self.perceptual is None or self.weight == 0:
            return {"loss": mse, "mse": mse.detach()}
        perceptual = self.perceptual(pictures, wanted).float().mean()
        return {"loss": mse + self.weight * perceptual, "mse": mse.detach(), "lpips": perceptual.detach()}


class DecoderTraining:
    """Draws latents sampled beforehand."""

    def __init__(self, name: str, config: DecoderConfig, objective: DecoderObjective, latents: Tensor) -> None:
        self.name = name
        self.config = config
        self.objective: nn.Module = objective
        self.latents = latents

    def inputs(self, index: int, batch_size: int, device: torch.device) -> tuple[Tensor]:
        """Micro step `index`."""
        generator = generator_for(torch.device("cpu"), self.name, self.config.loop.seed, index)
        rows = torch.randint(self.latents.shape[0], (batch_size,), generator=generator)
        return (self.latents[rows.to(self.latents.device)].to(device).float(),)
