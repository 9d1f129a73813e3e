"""Costs of flexible programs at their default shapes, held to the same network with fixed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.inspect.operations.default_shapes import at_default_shapes
from sfmobile.inspect.operations.op_table import op_table
from sfmobile.mlpackage.description import describe
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import read_program
from tests.runtime.packages import convert


class Vocoder(nn.Module):
    """Upsamples features (1, C, T) to sound, with a branch that is cut and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv1d(8, 16, 7, padding=3)
        self.up = nn.ConvTranspose1d(16, 8, 8, stride=4, padding=2)
        self.down = nn.Conv1d(8, 8, 4, stride=2)
        self.project = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        """x (1, 8, T)."""
        wide = F.leaky_relu(self.up(F.leaky_relu(self.before(x), 0.1)))
        half = F.max_pool1d(self.down(F.pad(wide[:, :, 1:-1], (2, 3))), 3, 2)
        mixed = torch.cat([half, half.flip(2)], dim=1).transpose(1, 2)
        left, right = mixed.chunk(2, dim=-1)
        scores = torch.softmax(self.project(left) @ self.project(right).transpose(1, 2), dim=-1)
        return torch.tanh((scores @ right).reshape(1, -1, 8).mean(1, keepdim=True))


class Picture(nn.Module):
    """Works on a picture of any size, with shapes computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (1, 3, H, W)."""
        small = self.conv(image)
        large = F.interpolate(small, scale_factor=2.0)
        batch, channels, height, width = large.shape
        rows = large.reshape(batch, channels, height * width).transpose(1, 2)
        return self.gate((rows * 2).transpose(1, 2).reshape(batch, channels, height, width))


def macs(path: Path) -> tuple[int, int]:
    """Multiply-accumulates at the default shapes, and the operations that couldn't be followed."""
    package = Package(path)
    sized = at_default_shapes(read_program(package), describe(package.model))
    return sum(cost.macs for cost in op_table(Graph(sized.program))), sized.unknown


@pytest.mark.parametrize(
    ("module", "shape", "flexible"),
    [
        (Vocoder(), (1, 8, 20), (1, 8, ct.RangeDim(4, 400, default=20))),
        (Picture(), (1, 3, 8, 12), (1, 3, ct.RangeDim(8, 64, default=8), ct.RangeDim(8, 64, default=12))),
    ],
    ids=["vocoder", "picture"],
)
def test_a_flexible_network_costs_what_the_fixed_one_does(
    module: nn.Module, shape: tuple[int, ...], flexible: Any, tmp_path: Path
) -> None:
    example = [torch.rand(shape)]
    fixed = convert(module, example, tmp_path / "fixed.mlpackage", inputs=[ct.TensorType("x", shape)])
    varying = convert(module, example, tmp_path / "varying.mlpackage", inputs=[ct.TensorType("x", flexible)])
    expected, _ = macs(fixed)
    assert expected > 1000
    assert macs(varying) == (expected, 0)
