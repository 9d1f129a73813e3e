"""Lists of tensors, which loops fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sfmobile.runtime.mil.ops.registry import TORCH_TYPES, op
from sfmobile.runtime.mil.values import TensorList, stacked


@op("make_list", exact=True)
def make_list(
    *,
    init_length: int = 1,
    dynamic_length: bool = True,
    elem_shape: Sequence[int | str] = (),
    dtype: Literal["bool", "fp16", "fp32", "int16", "int32", "uint16"] = "fp32",
) -> TensorList:
    """MIL `make_list`. A string in `elem_shape` stands for a size known at run time only; until it is written, such an
    element reads as one of size 1 there."""
    sizes = [1 if isinstance(size, str) else size for size in elem_shape]
    # One zero seen from everywhere: an element takes memory once it is written.
    empty = torch.zeros((), dtype=TORCH_TYPES[dtype]).expand(sizes)
    return TensorList.of_length(init_length, empty, grows=dynamic_length)


@op("list_length", exact=True)
def list_length(ls: TensorList) -> Tensor:
    """MIL `list_length`, int32."""
    return torch.tensor(len(ls.items), dtype=torch.int32)


@op("list_write", exact=True)
def list_write(ls: TensorList, index: Tensor, value: Tensor) -> TensorList:
    """MIL `list_write`: a list with `value` at `index`; one of dynamic length grows up to there."""
    return ls.written(int(index), value)


@op("list_read", exact=True)
def list_read(ls: TensorList, index: Tensor) -> Tensor:
    """MIL `list_read`: the element at `index`."""
    return ls.read(int(index))


@op("list_gather", exact=True)
def list_gather(ls: TensorList, indices: Tensor) -> Tensor:
    """MIL `list_gather`: the elements at `indices`, on a new first axis."""
    return stacked([ls.read(index) for index in indices.tolist()])


@op("list_scatter", exact=True)
def list_scatter(ls: TensorList, indices: Tensor, value: Tensor) -> TensorList:
    """MIL `list_scatter`: a list with value[i] at indices[i]."""
    for index, item in zip(indices.tolist(), value, strict=True):
        ls = ls.written(index, item)
    return ls
