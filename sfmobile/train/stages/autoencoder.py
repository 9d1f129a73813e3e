"""The KL autoencoder: L1 + LPIPS + a little KL, then latents normalised inside its own 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.train.config import LoopConfig
from sfmobile.train.randomness import generator_for
from sfmobile.train.record import StageRecord
from sfmobile.train.stage import StageConfig, Workplace

# (index, batch_size, seed, device) to images (B, 3, H, W) in [-1, 1].
ImageSource = Callable[[int, int, int, torch.device], Tensor]


@dataclass(frozen=True)
class AutoencoderConfig(StageConfig, kind="autoencoder"):
    """An autoencoder stage.

    layout: name; perceptual_weight scales LPIPS beside L1; kl_weight the prior's pull; start_from: an earlier
    autoencoder stage of the same layout to go on from, as when pictures grow.
    """

    loop: LoopConfig
    layout: str
    perceptual_weight: float = 0.5
    kl_weight: float = 1e-6
    start_from: str | None = None

    def sources(self) -> tuple[str, ...]:
        """The stage that it goes on from."""
        return () if self.start_from is None else (self.start_from,)

    def run(self, name: str, place: Workplace) -> None:
        """Train, then normalise the latents to unit deviation."""
        run = place.run
        layout = run.networks.autoencoder(self.layout)
        pictures = place.pictures("pictures")
        perceptual = place.perceptual() if self.perceptual_weight > 0 else None

        def images(index: int, batch_size: int, seed: int, device: torch.device) -> Tensor:
            return pictures.batch(index, batch_size, seed)[0].to(device)

        if self.start_from is None:
            encoder, decoder = Encoder(layout), Decoder(layout)
        else:
            encoder, decoder = run.encoder(self.start_from, self.layout), run.decoder(self.start_from, self.layout)
        objective = AutoencoderObjective(encoder, decoder, perceptual, self)
        training = AutoencoderTraining(name, self, objective, images, pictures.side // layout.downsampling)
        objective.load_state_dict(place.train(name, training, self.loop), strict=False)
        means, stds = latent_statistics(encoder.eval(), images, self.loop.batch_size, run.device)
        normalise_latents(encoder.cpu(), decoder.cpu(), means.cpu(), stds.cpu())
        tensors = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
        tensors |= {f"decoder.{key}": value for key, value in decoder.state_dict().items()}
        normal = replace(layout, scaling_factor=1.0)
        run.leave(name, tensors, StageRecord(kind=self.kind, encoder=normal, decoder=normal))


class AutoencoderObjective(nn.Module):
    """Reconstruction through a sampled latent."""

    def __init__(
        self, encoder: Encoder, decoder: Decoder, perceptual: nn.Module | None, config: AutoencoderConfig
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.perceptual = None if perceptual is None else perceptual.requires_grad_(False)
        self.config = config

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [-1, 1], noise (B, latent_channels, h, w)."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30.0, 10.0)
        decoded = self.decoder(mean + torch.exp(0.5 * log_variance) * noise).float()
        pixel = F.l1_loss(decoded, images)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=(1, 2, 3)).mean()
        loss = pixel + self.config.kl_weight * kl
        losses = {"l1": pixel.detach(), "kl": kl.detach(), "mse": F.mse_loss(decoded, images).detach()}
        if self.perceptual is not None:
            perceptual = self.perceptual(decoded, images).float().mean()
            loss = loss + self.config.perceptual_weight * perceptual
            losses["lpips"] = perceptual.detach()
        return {"loss": loss, **losses}


class AutoencoderTraining:
    """Draws images and posterior noise for `AutoencoderObjective`."""

    def __init__(
        self,
        name: str,
        config: AutoencoderConfig,
        objective: AutoencoderObjective,
        images: ImageSource,
        latent_side: int,
    ) -> None:
        self.name = name
        self.config = config
        self.objective: nn.Module = objective
        self.images = images
        self.latent_shape = (objective.decoder.post_quant_conv.in_channels, latent_side, latent_side)

    def inputs(self, index: int, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Micro step `index`."""
        seed = self.config.loop.seed
        generator = generator_for(device, self.name, seed, index)
        images = self.images(index, batch_size, seed, device)
        return images, torch.randn((batch_size, *self.latent_shape), generator=generator, device=device)


@torch.no_grad()
def latent_statistics(
    encoder: Encoder, images: ImageSource, batch_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel of the posterior mean over about 2,000 compositions."""
    rows = []
    for index in range(max(1, 2048 // batch_size)):
        mean, _ = encoder(images(index, batch_size, 7, device)).float().chunk(2, dim=1)
        rows.append(mean.transpose(0, 1).flatten(1))
    values = torch.cat(rows, dim=1)
    return values.mean(dim=1), values.std(dim=1)


@torch.no_grad()
def normalise_latents(encoder: Encoder, decoder: Decoder, means: Tensor, stds: Tensor) -> None:
    """Give latents zero mean and unit deviation per channel by rewriting `quant_conv` and `post_quant_conv`.

    means, stds (latent_channels,) of the posterior mean before. The autoencoder computes what it did before, and the
    scaling factor of the checkpoint becomes 1.
    """
    channels = means.numel()
    quant, post = encoder.quant_conv, decoder.post_quant_conv
    # mean' = (mean - m) / s; log-variance' = log-variance - 2 log s.
    if quant.bias is None or post.bias is None:
        raise ValueError("quant_conv and post_quant_conv carry biases")
    quant.weight[:channels] /= stds.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - means) / stds
    quant.bias[channels:] -= 2 * stds.log()
    # post(z' s + m) = post_weight diag(s) z' + (post_bias + post_weight m).
    post.bias += post.weight[:, :, 0, 0] @ means
    post.weight *= stds.view(1, -1, 1, 1)
