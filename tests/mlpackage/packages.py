"""A small package that tests take apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.proto import Model_pb2

X = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float16)
KERNEL = np.random.default_rng(1).normal(size=(3, 2, 3, 3)).astype(np.float16)


def body(x: Any) -> Any:
    return mb.relu(x=mb.conv(x=x, weight=KERNEL, pad_type="same", name="conv_in"), name="y")


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def change_model(package: Path, change: Callable[[Any], None]) -> None:
    model = Model_pb2.Model.FromString(model_file(package).read_bytes())
    change(model)
    model_file(package).write_bytes(model.SerializeToString())
