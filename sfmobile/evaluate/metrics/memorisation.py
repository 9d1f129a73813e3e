"""How near generated pictures come to training pictures: copies show as distances below those of real new pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Nearest:
    """For each picture, its nearest training picture: LPIPS distance (N,) and row in the training set (N,)."""

    distance: Tensor
    row: Tensor


@torch.no_grad()
def nearest_training(
    pictures: Tensor,
    training: Tensor,
    features_of: nn.Module,
    lpips: nn.Module,
    *,
    candidates: int = 8,
    batch: int = 64,
) -> Nearest:
    """Nearest training picture by LPIPS among the `candidates` nearest by features.

    LPIPS to every training picture would cost candidates' share of the set times more and finds the same neighbour
    unless it is not among the candidates; the distance reported is therefore never below the true one.

    pictures (N, 3, H, W), training (M, 3, H, W), float in [-1, 1] or uint8, on any device; features_of: pictures in
    [-1, 1] -> (B, D); lpips: two batches -> (B,).
    """
    device = next(features_of.buffers()).device
    known = _features(training, features_of, device, batch)
    distances, rows = [], []
    for part in torch.split(pictures, batch):
        shown = as_float(part.to(device))
        similarity = _unit(features_of(shown)) @ known.T
        near = similarity.topk(min(candidates, len(training)), dim=1).indices
        to_each = torch.stack(
            [lpips(shown, as_float(training[column.to(training.device)].to(device))) for column in near.unbind(1)],
            dim=1,
        )
        best = to_each.argmin(dim=1, keepdim=True)
        distances.append(to_each.gather(1, best).flatten().cpu())
        rows.append(near.gather(1, best).flatten().cpu())
    return Nearest(torch.cat(distances), torch.cat(rows))


def _features(pictures: Tensor, features_of: nn.Module, device: torch.device, batch: int) -> Tensor:
    parts = [_unit(features_of(as_float(part.to(device)))) for part in torch.split(pictures, batch)]
    return torch.cat(parts)


def _unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x.float(), dim=1)


def as_float(pictures: Tensor) -> Tensor:
    """uint8 pictures as float32 in [-1, 1]; others unchanged."""
    return pictures.float() / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8, rounded."""
    return pictures.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
