"""Small Core ML models of every kind, made by coremltools from torch modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn


def convert(module: nn.Module, examples: Sequence[Tensor], path: Path, **options: Any) -> Path:
    """Convert `module` in fp32 unless asked otherwise, and save it at `path`."""
    traced = torch.jit.trace(module.eval(), tuple(examples))
    options = {"minimum_deployment_target": ct.target.iOS16, "compute_precision": ct.precision.FLOAT32, **options}
    model = ct.convert(traced, convert_to="mlprogram", skip_model_load=True, **options)
    model.save(str(path))
    return path


class Picture(nn.Module):
    """What a program sees of a picture: its mean colour, and the picture with red and blue in each other's place."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (1, 3, H, W)."""
        return image.mean((2, 3)), image.flip(1)


class Sum(nn.Module):
    """x + 2 y, and x itself in another shape."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both of one shape."""
        return x + 2 * y, x.reshape(-1)


class Lookup(nn.Module):
    """A row of a table by whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (N,), int32."""
        return self.table(ids)


class Counter(nn.Module):
    """Adds what it is given to what it was given before."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        """x (3,)."""
        self.total.add_(x)
        return self.total * 2


def picture_model(path: Path, layout: str = "RGB", output: str | None = "RGB", **shape: Any) -> Path:
    """Takes a picture of 6x4 (`shape`: of others), scaled to 0 to 1, and gives its mean and a picture."""
    color = {"RGB": ct.colorlayout.RGB, "BGR": ct.colorlayout.BGR}
    image = ct.ImageType("image", color_layout=color[layout], scale=1 / 255, **{"shape": (1, 3, 4, 6), **shape})
    swapped = ct.TensorType("swapped") if output is None else ct.ImageType("swapped", color_layout=color[output])
    return convert(Picture(), [torch.rand(1, 3, 4, 6)], path, inputs=[image], outputs=[ct.TensorType("mean"), swapped])


def sum_model(path: Path, shape: Any = (2, 3), default: float | None = 0.5, **options: Any) -> Path:
    """x + 2 y with y optional."""
    second = {} if default is None else {"default_value": np.full((2, 3), default, np.float32)}
    inputs = [ct.TensorType("x", shape), ct.TensorType("y", shape, **second)]
    outputs = [ct.TensorType("sum"), ct.TensorType("flat")]
    return convert(Sum(), [torch.rand(2, 3)] * 2, path, inputs=inputs, outputs=outputs, **options)


def classifier_model(path: Path) -> Path:
    """A classifier of three named classes."""
    module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))
    nn.init.zeros_(module[0].weight)
    module[0].bias.data = torch.tensor([0.0, 2.0, 1.0])
    config = ct.ClassifierConfig(["cat", "dog", "owl"])
    return convert(module, [torch.rand(1, 4)], path, inputs=[ct.TensorType("x", (1, 4))], classifier_config=config)


def counter_model(path: Path) -> Path:
    """A model with a state."""
    return convert(
        Counter(),
        [torch.rand(3)],
        path,
        inputs=[ct.TensorType("x", (3,), dtype=np.float16)],
        outputs=[ct.TensorType("twice", dtype=np.float16)],
        states=[ct.StateType(ct.TensorType(shape=(3,), dtype=np.float16), name="total")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
    )
