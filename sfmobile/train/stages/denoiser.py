"""Teacher and efficient UNet: text-conditional v-prediction on latents, with caption dropout and block dropout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train.config import LoopConfig
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.glyph import schedule_named
from sfmobile.train.latents import LatentPool
from sfmobile.train.randomness import generator_for
from sfmobile.train.record import StageRecord, UNetRecord
from sfmobile.train.stage import StageConfig, Workplace


@dataclass(frozen=True)
class DenoiserConfig(StageConfig, kind="denoiser"):
    """A denoiser stage.

    unet: name of a layout; caption_dropout: share of captions replaced by the empty one, which is what guidance
    needs; block_dropout: probability that a cross-attention or ResNet block is replaced by the identity in a step
    (robust training, SnapFusion sec. 3.1), over the first `robust_fraction` of the steps; snr_gamma: clip of the
    signal-to-noise loss weight (arXiv 2303.09556), None for the plain v loss of SnapFusion's L_ori.
    unet_from, text_encoder_from: earlier stages to start from; a text encoder taken from one stays as it is unless
    train_text_encoder. pool: the latents stage to learn from.
    """

    loop: LoopConfig
    unet: str
    schedule: str = "zero-terminal"
    unet_from: str | None = None
    text_encoder_from: str | None = None
    train_text_encoder: bool = False
    pool: str = "latents"
    caption_dropout: float = 0.1
    block_dropout: float = 0.0
    robust_fraction: float = 0.5
    snr_gamma: float | None = None

    def sources(self) -> tuple[str, ...]:
        """The pool, and the stages whose networks it goes on from."""
        return tuple(stage for stage in (self.pool, self.unet_from, self.text_encoder_from) if stage is not None)

    def run(self, name: str, place: Workplace) -> None:
        """Train a UNet, the teacher or the efficient one started from it, and a text encoder where none is given."""
        run = place.run
        unet = run.new_unet(run.unet_layout(self.unet), self.unet_from)
        if self.text_encoder_from is None:
            text_encoder = run.new_text_encoder(place.token_embedding())
        else:
            text_encoder = run.text_encoder(self.text_encoder_from)
        scheduler = schedule_named(self.schedule)
        schedule = NoiseSchedule(scheduler, unet.layout.down[0].channels)
        objective = DenoiserObjective(text_encoder, unet, schedule, self.snr_gamma)
        weights = place.train(name, DenoiserTraining(name, self, objective, run.pool(self.pool)), self.loop)
        own = self.text_encoder_from is None or self.train_text_encoder
        record = UNetRecord(
            layout=unet.layout,
            schedule=scheduler,
            latents=run.pool_record(self.pool),
            text_encoder_from=None if own else self.text_encoder_from,
        )
        trained = text_encoder.layout if own else None
        run.leave(name, weights, StageRecord(kind=self.kind, unet=record, text_encoder=trained))


class DenoiserObjective(nn.Module):
    """L_ori = ||v_hat(t, z_t, c) - v||^2 (SnapFusion sec. 4.1)."""

    def __init__(
        self, text_encoder: TextEncoder, unet: UNet, schedule: NoiseSchedule, snr_gamma: float | None = None
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet
        self.schedule = schedule
        self.snr_gamma = snr_gamma

    def forward(
        self, latents: Tensor, input_ids: Tensor, noise: Tensor, timestep: Tensor, gates: Tensor | None
    ) -> dict[str, Tensor]:
        """latents and noise (B, 4, h, w), input_ids (B, 77), timestep (B,), gates (blocks, B) or None."""
        schedule = self.schedule
        noisy = schedule.add_noise(latents, noise, timestep)
        target = schedule.velocity(latents, noise, timestep)
        context = self.text_encoder(input_ids)
        predicted = self.unet(noisy, schedule.embed(timestep), context, gates=gates).float()
        loss = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
        if self.snr_gamma is not None:
            # The v loss weighs x by SNR + 1; clipping the x weight at gamma gives min(SNR, gamma) / (SNR + 1).
            snr = (schedule.alpha(timestep) / schedule.sigma(timestep).clamp_min(1e-6)).flatten() ** 2
            weight = torch.where(snr < 1e-8, torch.ones_like(snr), snr.clamp_max(self.snr_gamma)) / (snr + 1)
            loss = loss * weight
        return {"loss": loss.mean()}


class DenoiserTraining:
    """Draws latents, captions, noise and timesteps for `DenoiserObjective`."""

    def __init__(self, name: str, config: DenoiserConfig, objective: DenoiserObjective, pool: LatentPool) -> None:
        self.name = name
        self.config = config
        self.objective: nn.Module = objective
        self.pool = pool
        self.blocks = len(objective.unet.layout.block_names())
        self.timesteps = objective.schedule.timesteps
        if config.text_encoder_from is not None and not config.train_text_encoder:
            objective.text_encoder.requires_grad_(False)

    def inputs(
        self, index: int, batch_size: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Micro step `index`: everything is drawn from (stage, seed, index)."""
        config = self.config
        generator = generator_for(device, self.name, config.loop.seed, index)
        latents, input_ids = self.pool.batch(index, batch_size, config.loop.seed)
        drop = torch.rand(batch_size, generator=generator, device=device) < config.caption_dropout
        input_ids = torch.where(drop[:, None], self.pool.empty_ids, input_ids)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        timestep = torch.randint(self.timesteps, (batch_size,), generator=generator, device=device)
        gates = None
        if config.block_dropout > 0:
            robust_steps = config.loop.steps * config.loop.gradient_accumulation * config.robust_fraction
            share = config.block_dropout if index < robust_steps else 0.0
            gates = (torch.rand(self.blocks, batch_size, generator=generator, device=device) >= share).float()
        return latents, input_ids, noise, timestep, gates
