"""Batches of captioned pictures, rendered on the device that holds the sprites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sfmobile.errors import UnavailableError
from sfmobile.train.data.recolour import recoloured
from sfmobile.train.data.scenes import Attributes, Composer, Scenes
from sfmobile.train.data.sprites import Sprite, read_index


@dataclass(frozen=True)
class SpritePool:
    """Sprites on a device. `pixels` uint8 (N, 4, 128, 128), colour multiplied by alpha; `sprites` their records."""

    sprites: list[Sprite]
    pixels: Tensor
    composer: Composer


def load_pool(
    index: Path,
    device: torch.device | str = "cpu",
    *,
    splits: Sequence[str] = ("train",),
    kinds: dict[str, float] | None = None,
    judge: bool = False,
    verify: bool = True,
) -> SpritePool:
    """Read a sprite cache by its index file; all sprites go to the device, `splits` says which are composed.

    Raises:
        ArtifactError: the cache is missing, damaged or of another version.
        UnavailableError: it doesn't fit the device's memory.
    """
    from safetensors.torch import load_file

    sprites, data = read_index(index, verify=verify)
    try:
        pixels = load_file(data)["pixels"].to(device)
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"{data.name} ({data.stat().st_size >> 20} MiB) doesn't fit the memory of {device}; keep the sprites on "
            f"the CPU (device cpu)"
        ) from error
    return SpritePool(sprites, pixels, Composer(sprites, splits, kinds, judge=judge))


def compose_batch(
    pool: SpritePool, index: int, batch_size: int, seed: int
) -> tuple[Tensor, list[str], list[Attributes]]:
    """Batch number `index` of the sequence that `seed` stands for.

    Returns:
        images float32 (batch_size, 3, 128, 128) in [-1, 1] on the pool's device, captions, attributes.
    """
    scenes = pool.composer.compose(index, batch_size, seed)
    return render(pool.pixels, scenes), scenes.captions, scenes.attributes


def render(pixels: Tensor, scenes: Scenes) -> Tensor:
    """Draw scenes: float32 (B, 3, S, S) in [-1, 1] for `pixels` uint8 (N, 4, S, S), on their device."""
    device, size = pixels.device, pixels.shape[-1]
    background = torch.from_numpy(scenes.background).to(device, non_blocking=True)
    images = background[:, :, None, None].expand(-1, -1, size, size).contiguous()
    # Level l holds sprites shrunk by 2^l before they are resampled, so that small ones don't alias.
    levels = np.floor(0.5 - np.log2(scenes.place[:, 0])).clip(0, 3).astype(np.int64)
    for layer in _layers(scenes):
        for level in np.unique(levels[layer]).tolist():
            rows = torch.from_numpy(layer[levels[layer] == level])
            picked = pixels[torch.from_numpy(scenes.sprite)[rows].to(device)].float().div_(255)
            recolour = torch.from_numpy(scenes.recolour)[rows]
            turned = recolour[:, 0].nonzero()[:, 0]
            if len(turned):
                on_device = turned.to(device)
                picked[on_device] = recoloured(picked[on_device], recolour[turned, 1:].to(device))
            if level:
                picked = F.avg_pool2d(picked, 2**level)
            placed = _placed(picked, torch.from_numpy(scenes.place)[rows].to(device), size)
            where = torch.from_numpy(scenes.picture)[rows].to(device)
            images[where] = placed[:, :3] + (1 - placed[:, 3:]) * images[where]
    return images.mul_(2).sub_(1)


def _layers(scenes: Scenes) -> list[NDArray[np.int64]]:
    """Rows of the scenes in passes: no picture occurs twice in one pass, and the drawing order is kept."""
    passes: list[list[int]] = []
    depth: dict[int, int] = {}
    for row, picture in enumerate(scenes.picture.tolist()):
        level = depth.get(picture, 0)
        depth[picture] = level + 1
        if level == len(passes):
            passes.append([])
        passes[level].append(row)
    return [np.array(rows, np.int64) for rows in passes]


def _placed(sprites: Tensor, place: Tensor, size: int) -> Tensor:
    """Sprites (M, 4, s, s) scaled and moved onto canvases (M, 4, size, size); place (M, 3) as in `Scenes`."""
    side, x, y = place.unbind(1)
    zero = torch.zeros_like(side)
    theta = torch.stack(
        [torch.stack([1 / side, zero, -x / side], 1), torch.stack([zero, 1 / side, -y / side], 1)], dim=1
    )
    grid = F.affine_grid(theta, [len(sprites), 4, size, size], align_corners=False)
    return F.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
