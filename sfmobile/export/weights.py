"""A component's network with weights of one precision that stay in files, ready to be traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfmobile.bundle.manifest import ComponentName
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.compiled import compiled
from sfmobile.errors import ArtifactError

FLOAT16_MAX = torch.finfo(torch.float16).max
# The code of float16's infinity; NaN's codes are above it.
INFINITY_CODE = 0x7C00


def load_network(
    checkpoint: Checkpoint, component: ComponentName, scratch: Path, dtype: torch.dtype = torch.float16
) -> nn.Module:
    """`component` of `checkpoint` in eval mode with weights of `dtype`.

    Weights stored as `dtype` stay memory-mapped where they are; others are cast tensor by tensor into a mapped file
    in the directory `scratch`, which must live as long as the network. Raises `ArtifactError` naming a weight that is
    not finite or doesn't fit float16.
    """
    net = checkpoint.load(component, None)
    weights = net.state_dict()
    for name, weight in weights.items():
        check_fits_float16(checkpoint, component, name, weight)
    others = {name: weight for name, weight in weights.items() if weight.dtype != dtype}
    if others:
        weights.update(_cast_into_file(others, scratch / f"{component}.weights", dtype))
        net.load_state_dict(weights, assign=True)
    for module in net.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))
    return net.eval()


class HalfWeights:
    """Weights of a component as float16, by their state-dict keys, from where they are mapped."""

    def __init__(self, checkpoint: Checkpoint, component: ComponentName) -> None:
        self._checkpoint = checkpoint
        self._component = component
        self._weights = checkpoint.state_dict(component)

    def read(self, key: str) -> NDArray[np.float16]:
        """A weight; infinite where it doesn't fit float16."""
        half: NDArray[np.float16] = self._weights[key].half().numpy()
        return half

    def check(self, key: str) -> None:
        """Raise `ArtifactError` as `load_network` does."""
        check_fits_float16(self._checkpoint, self._component, key, self._weights[key])


def check_fits_float16(checkpoint: Checkpoint, component: ComponentName, name: str, weight: Tensor) -> None:
    """Raise `ArtifactError` if `weight` holds infinities, NaN or values beyond float16."""
    half = weight.half()  # The tensor itself where it is float16 already.
    if _largest_magnitude(half.reshape(-1).view(torch.uint16).numpy()) < INFINITY_CODE:
        return
    if not bool(torch.isfinite(weight).all()):
        found = "holds infinite values or NaN; the checkpoint is damaged"
    else:
        largest = float(weight.abs().max())
        found = (
            f"reaches {largest:.6g}, beyond float16's {FLOAT16_MAX:.0f}; rescale the layer or use another checkpoint"
        )
    raise ArtifactError(f"{checkpoint.root}: weight '{name}' of {component} {found}.")


def _largest(codes: NDArray[np.uint16]) -> int:
    """Largest code without the sign bit. Codes of one sign order as their values do."""
    largest = np.uint16(0)
    for code in codes:
        largest = max(largest, code & np.uint16(0x7FFF))
    return int(largest)


# torch.isfinite takes 17 ns for a float16 value on a CPU, this a tenth of one.
_largest_magnitude = cast("Callable[[NDArray[np.uint16]], int]", compiled(_largest))


def _cast_into_file(weights: dict[str, Tensor], path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies as `dtype`, in one memory-mapped file: pages that the system may write out, not memory it must hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(weight.numel() for weight in weights.values())
    storage = torch.from_file(str(path), shared=True, size=max(total, 1), dtype=dtype)
    cast: dict[str, Tensor] = {}
    place = 0
    for name, weight in weights.items():
        part = storage[place : place + weight.numel()].view(weight.shape)
        part.copy_(weight)
        cast[name] = part
        place += weight.numel()
    return cast
