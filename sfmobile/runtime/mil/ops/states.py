"""States, which a model keeps from one call to the next: a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sfmobile.runtime.mil.ops.registry import op
from sfmobile.runtime.mil.values import State


@op("read_state", exact=True)
def read_state(input: State) -> Tensor:
    """MIL `read_state`: what the state holds now."""
    return input.value


@op("write_state", exact=True)
def write_state(input: State, data: Tensor) -> Sequence[Tensor]:
    """MIL `write_state`: the state holds `data` from now on."""
    if data.shape != input.value.shape:
        raise ValueError(f"writes shape {tuple(data.shape)} into a state of shape {tuple(input.value.shape)}")
    input.value = data
    return ()


@op("coreml_update_state", exact=True)
def coreml_update_state(state: State, value: Tensor) -> Tensor:
    """`write_state` and `read_state` in one, a form of coremltools before a package is written."""
    write_state(state, value)
    return value
