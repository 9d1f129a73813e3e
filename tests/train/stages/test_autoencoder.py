"""The latents are normalised without changing what the autoencoder computes."""

from __future__ import annotations

import torch

from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.train.config import LoopConfig
from sfmobile.train.stages.autoencoder import AutoencoderConfig, AutoencoderObjective, normalise_latents
from tests.tiny import TINY_AUTOENCODER

CONFIG = AutoencoderConfig(LoopConfig(1, 1, 1e-3), "tiny", perceptual_weight=0.5, kl_weight=0.1)


def test_normalising_gives_unit_latents_and_the_same_pictures():
    torch.manual_seed(0)
    encoder, decoder = Encoder(TINY_AUTOENCODER).double(), Decoder(TINY_AUTOENCODER).double()
    images = torch.rand(16, 3, 16, 16).double() * 2 - 1
    with torch.no_grad():
        mean, log_variance = encoder(images).chunk(2, dim=1)
        pictures = decoder(mean)
        rows = mean.transpose(0, 1).flatten(1)
        means, stds = rows.mean(dim=1), rows.std(dim=1)
        normalise_latents(encoder, decoder, means, stds)
        normal, normal_log_variance = encoder(images).chunk(2, dim=1)
        torch.testing.assert_close(decoder(normal), pictures)
    column = (1, -1, 1, 1)
    torch.testing.assert_close(normal, (mean - means.view(column)) / stds.view(column))
    # The posterior's deviation shrinks with the latents.
    torch.testing.assert_close(normal_log_variance, log_variance - 2 * stds.log().view(column))


def test_the_loss_is_l1_plus_weighted_lpips_plus_weighted_kl():
    torch.manual_seed(0)

    class Perceptual(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).square().mean(dim=(1, 2, 3))

    encoder, decoder = Encoder(TINY_AUTOENCODER), Decoder(TINY_AUTOENCODER)
    images, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 4, 8, 8)
    losses = AutoencoderObjective(encoder, decoder, Perceptual(), CONFIG)(images, noise)
    mean, log_variance = encoder(images).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3)).mean()
    decoded = decoder(mean + torch.exp(0.5 * log_variance) * noise)
    expected = (decoded - images).abs().mean() + 0.5 * (decoded - images).square().mean() + 0.1 * kl
    torch.testing.assert_close(losses["loss"], expected)
