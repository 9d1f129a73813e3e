"""Samplers of a training run's stages: what an evaluation measures, built from the weights that the stages left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfmobile.errors import UsageError
from sfmobile.evaluate.evaluation import Part
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.train.glyph import SCHEDULES
from sfmobile.train.network_sampler import Encode, Sampler, SamplingPrecision, network_sampler
from sfmobile.train.sampler import sample_latents, seeded_noise
from sfmobile.train.stages.run import Run


@dataclass(frozen=True)
class Variant:
    """One point to measure. stage: whose UNet; decoder: the stage whose decoder; series: the sweep it belongs to,
    named with the axis that varies, e.g. "steps: student"; grid: whether it has a row in the grid; first_seed: other
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
            weights = self.run.weights(stage, "decoder.", "student.")
            shapes = {key: value.shape for key, value in weights.items()}
            for layout in self.run.networks.autoencoders:
                decoder = Decoder(layout)
                if {key: value.shape for key, value in decoder.state_dict().items()} == shapes:
                    decoder.load_state_dict(weights)
                    self._decoders[stage] = decoder.to(self.run.device).eval().requires_grad_(False)
                    break
            else:
                raise UsageError(f"{self.run.root / stage}: its decoder fits none of the known layouts.")
        return self._decoders[stage]

    def latent_shape(self, decoder: Decoder) -> tuple[int, int, int]:
        """Channels and sides of the latents of the pictures' size."""
        side = self.side // decoder.layout.downsampling
        return decoder.layout.latent_channels, side, side

    def sampler(self, variant: Variant) -> Sampler:
        """The sampler of a variant."""
        unet, text_encoder, schedule = self.run.denoiser(variant.stage)
        decoder = self.decoder(variant.decoder)
        return network_sampler(
            text_encoder,
            unet,
            decoder,
            schedule,
            SCHEDULES["zero-terminal"],
            self.encode,
            steps=variant.steps,
            guidance_scale=variant.guidance,
            latent_shape=self.latent_shape(decoder),
            precision=self.precision,
        )

    @torch.no_grad()
    def latents(self, variant: Variant, captions: Sequence[str]) -> Tensor:
        """The variant's own latents for `captions`, one seed each from 0."""
        unet, text_encoder, schedule = self.run.denoiser(variant.stage)
        device = self.run.device
        rows = []
        for start in range(0, len(captions), 128):
            part = list(captions[start : start + 128])
            rows.append(
                sample_latents(
                    unet,
                    schedule,
                    SCHEDULES["zero-terminal"],
                    text_encoder(self.encode(part).long().to(device)),
                    text_encoder(self.encode([""]).long().to(device)),
                    steps=variant.steps,
                    guidance_scale=variant.guidance,
                    noise=seeded_noise(
                        list(range(start, start + len(part))), self.latent_shape(self.decoder(variant.decoder)), device
                    ),
                )
            )
        return torch.cat(rows)

    @torch.no_grad()
    def reconstructed(self, pictures: Tensor, encoder_stage: str, decoder_stage: str) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] through a stage's encoder and another's decoder: the best that any sampler
        behind this decoder can do."""
        decoder = self.decoder(decoder_stage)
        encoder = Encoder(self.decoder(encoder_stage).layout)
        encoder.load_state_dict(self.run.weights(encoder_stage, "encoder."))
        encoder.to(self.run.device).eval()
        parts = [
            decoder(encoder(part.to(self.run.device)).chunk(2, dim=1)[0]).float().clamp(-1, 1)
            for part in torch.split(pictures, 64)
        ]
        return torch.cat(parts)
