"""Decoder distillation (SnapFusion sec. 3.2): the half-width decoder learns the full one's pictures, by pixel MSE.

The latents are the text-to-image model's own, since those are what it will decode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.autoencoder import Decoder
from sfmobile.train.config import LoopConfig
from sfmobile.train.randomness import generator_for


@dataclass(frozen=True)
class DecoderConfig:
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


class DecoderStage:
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
