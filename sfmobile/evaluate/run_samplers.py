"""Samplers of a training run's stages: what an evaluation measures, built from the weights that the stages left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfmobile.evaluate.evaluation import Part
from sfmobile.evaluate.report import Axis
from sfmobile.nets.autoencoder import Decoder
from sfmobile.train.network_sampler import Encode, Sampler, SamplingPrecision, network_sampler
from sfmobile.train.run import Run
from sfmobile.train.sampler import sample_latents, seeded_noise


@dataclass(frozen=True)
class Variant:
    """One point to measure. stage: whose UNet; decoder: the stage whose decoder; series: the sweep it belongs to,
    the axis that varies first, e.g. "steps: student"; grid: whether it has a row in the grid; first_seed: other
    noise, to see how much a figure owes to chance."""

    name: str
    stage: str
    steps: int
    guidance: float
    decoder: str = "autoencoder"
    parts: tuple[Part, ...] = ("distribution",)
    series: str = ""
    grid: bool = False
    first_seed: int = 0

    @property
    def varies(self) -> Axis | None:
        """The setting in which the points of its sweep differ."""
        axes: tuple[Axis, ...] = ("steps", "guidance")
        return next((axis for axis in axes if self.series.startswith(f"{axis}:")), None)


class RunSamplers:
    """Samplers of a run's stages; networks are loaded when first asked for and kept."""

    def __init__(self, run: Run, encode: Encode, side: int, precision: SamplingPrecision = "auto") -> None:
        self.run = run
        self.precision = precision
        self.side = side
        self.encode = encode
        self._decoders: dict[str, Decoder] = {}

    def decoder(self, stage: str) -> Decoder:
        """The decoder that a stage trained, on the device."""
        if stage not in self._decoders:
            self._decoders[stage] = self.run.decoder(stage).to(self.run.device).eval().requires_grad_(False)
        return self._decoders[stage]

    def latent_shape(self, decoder: Decoder) -> tuple[int, int, int]:
        """Channels and sides of the latents of the pictures' size."""
        side = self.side // decoder.layout.downsampling
        return decoder.layout.latent_channels, side, side

    def sampler(self, variant: Variant) -> Sampler:
        """The sampler of a variant, over the noise schedule that its stage was trained on."""
        model = self.run.denoiser(variant.stage)
        decoder = self.decoder(variant.decoder)
        return network_sampler(
            model.text_encoder,
            model.unet,
            decoder,
            model.schedule,
            self.encode,
            steps=variant.steps,
            guidance_scale=variant.guidance,
            latent_shape=self.latent_shape(decoder),
            scaling_factor=model.latents.scaling_factor,
            precision=self.precision,
        )

    @torch.no_grad()
    def latents(self, variant: Variant, captions: Sequence[str]) -> Tensor:
        """The variant's own latents for `captions` as its decoder takes them, one seed each from 0."""
        model = self.run.denoiser(variant.stage)
        device = self.run.device
        rows = []
        for start in range(0, len(captions), 128):
            part = list(captions[start : start + 128])
            rows.append(
                sample_latents(
                    model.unet,
                    model.schedule,
                    model.text_encoder(self.encode(part).long().to(device)),
                    model.text_encoder(self.encode([""]).long().to(device)),
                    steps=variant.steps,
                    guidance_scale=variant.guidance,
                    noise=seeded_noise(
                        list(range(start, start + len(part))), self.latent_shape(self.decoder(variant.decoder)), device
                    ),
                )
            )
        return torch.cat(rows) / model.latents.scaling_factor

    @torch.no_grad()
    def reconstructed(self, pictures: Tensor, encoder_stage: str, decoder_stage: str) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] through a stage's encoder and another's decoder: the best that any sampler
        behind this decoder can do."""
        decoder = self.decoder(decoder_stage)
        encoder = self.run.encoder(encoder_stage).to(self.run.device).eval()
        parts = [
            decoder(encoder(part.to(self.run.device)).chunk(2, dim=1)[0]).float().clamp(-1, 1)
            for part in torch.split(pictures, 64)
        ]
        return torch.cat(parts)
