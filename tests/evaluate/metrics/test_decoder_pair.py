from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sfmobile.evaluate.metrics.decoder_pair import compare_decoders, macs, psnr
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.verify.signal import psnr as reference_psnr
from tests.evaluate.tiny_sprites import PixelDistance
from tests.tiny import TINY_AUTOENCODER


def test_psnr_is_that_of_pictures_in_minus_one_to_one() -> None:
    a = torch.rand(3, 3, 8, 8) * 2 - 1
    b = (a + 0.1 * torch.randn_like(a)).clamp(-1, 1)
    expected = [reference_psnr(x.numpy(), y.numpy(), peak=2.0) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b), expected, rtol=1e-5)
    assert torch.isinf(psnr(a, a)).all()
    assert torch.equal(psnr(a * 9, a), psnr((a * 9).clamp(-1, 1), a))


def test_macs_of_a_convolution_are_counted_by_hand() -> None:
    layer = torch.nn.Conv2d(5, 7, 3, padding=1)
    assert macs(layer, torch.zeros(1, 5, 10, 12)) == 7 * 5 * 9 * 10 * 12


@torch.no_grad()
def test_the_pair_is_compared_on_real_pictures_and_on_own_latents() -> None:
    torch.manual_seed(0)
    narrow = replace(TINY_AUTOENCODER, decoder_channels=(8, 16))
    encoder, full, half = Encoder(TINY_AUTOENCODER).eval(), Decoder(TINY_AUTOENCODER).eval(), Decoder(narrow).eval()
    pictures, own = torch.rand(5, 3, 16, 16) * 2 - 1, torch.randn(3, 4, 8, 8)
    same = compare_decoders(encoder, full, full, PixelDistance(), pictures, own, batch=2)
    assert same.own_psnr == float("inf")
    assert same.own_lpips == 0
    assert same.full_psnr == same.half_psnr
    assert same.macs_ratio == 1
    pair = compare_decoders(encoder, full, half, PixelDistance(), pictures, own, batch=2)
    assert (pair.pictures, pair.own_latents) == (5, 3)
    assert pair.macs_ratio > 2
    latents = encoder(pictures).chunk(2, dim=1)[0]
    assert pair.half_psnr == pytest.approx(psnr(half(latents), pictures).mean().item(), rel=1e-4)
    expected = (half(own).clamp(-1, 1) - full(own).clamp(-1, 1)).abs().mean().item()
    assert pair.own_lpips == pytest.approx(expected, rel=1e-4)
