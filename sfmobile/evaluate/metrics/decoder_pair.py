"""The full and the half-width decoder side by side: on real pictures' latents and on the model's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderPair:
    """Figures of a decoder pair; PSNR in dB with a peak-to-peak of 2 (pictures in [-1, 1], clamped).

    full_psnr, half_psnr: against real pictures through the encoder; own_psnr, own_lpips: half against full on the
    text-to-image model's own latents; macs_ratio: multiply-accumulates of the full decoder over the half one's.
    """

    pictures: int
    full_psnr: float
    half_psnr: float
    full_lpips: float
    half_lpips: float
    own_latents: int
    own_psnr: float
    own_lpips: float
    full_macs: int
    half_macs: int

    @property
    def macs_ratio(self) -> float:
        """How many times fewer multiply-accumulates the half decoder needs."""
        return self.full_macs / self.half_macs


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR of each picture pair (B, 3, H, W) in [-1, 1] -> (B,) dB; infinite for equal pictures."""
    error = (a.float().clamp(-1, 1) - b.float().clamp(-1, 1)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)


def macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass, by torch's flop counter (two flops each)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    return counter.get_total_flops() // 2


@torch.no_grad()
def compare_decoders(
    encoder: nn.Module,
    full: nn.Module,
    half: nn.Module,
    lpips: nn.Module,
    pictures: Tensor,
    own: Tensor,
    batch: int = 64,
) -> DecoderPair:
    """Compare on real `pictures` (N, 3, H, W) in [-1, 1] and on `own` latents (M, 4, h, w), unscaled, on one device.

    The encoder returns mean and log-variance along the channels; the mean is decoded.
    """
    real: dict[str, list[Tensor]] = {"full_psnr": [], "half_psnr": [], "full_lpips": [], "half_lpips": []}
    for shown in torch.split(pictures, batch):
        latents = encoder(shown).chunk(2, dim=1)[0]
        for name, decoder in (("full", full), ("half", half)):
            decoded = decoder(latents).float().clamp(-1, 1)
            real[f"{name}_psnr"].append(psnr(decoded, shown))
            real[f"{name}_lpips"].append(lpips(decoded, shown))
    psnrs, distances = [], []
    for latents in torch.split(own, batch):
        wanted, found = full(latents).float().clamp(-1, 1), half(latents).float().clamp(-1, 1)
        psnrs.append(psnr(found, wanted))
        distances.append(lpips(found, wanted))
    means = {name: float(torch.cat(parts).mean()) for name, parts in real.items()}
    return DecoderPair(
        pictures=len(pictures),
        own_latents=len(own),
        own_psnr=float(torch.cat(psnrs).mean()),
        own_lpips=float(torch.cat(distances).mean()),
        full_macs=macs(full, own[:1]),
        half_macs=macs(half, own[:1]),
        **means,
    )
