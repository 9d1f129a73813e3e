"""What a program's values are held in, beside tensors: lists, states, and what a classifier says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

# A list is copied by each write, and what it holds stays in memory.
LIST_ELEMENTS = 65536
LIST_BYTES = 4 * 2**30


class LimitError(ValueError):
    """A program asks for what this runtime doesn't do, or for more rounds or a longer list than a run may have."""


@dataclass(frozen=True)
class TensorList:
    """A MIL list: tensors of one shape, None where nothing was written yet. Never changed: a write makes another."""

    items: tuple[Tensor | None, ...]
    empty: Tensor
    grows: bool
    bytes: int = 0

    @classmethod
    def of_length(cls, length: int, empty: Tensor, *, grows: bool) -> TensorList:
        """`length` elements, each `empty` until it is written. Raises `LimitError` if those are too many."""
        return cls((), empty, True)._padded(length, grows)

    def written(self, index: int, value: Tensor) -> TensorList:
        """With `value` at `index`; a list that grows grows up to it."""
        if index >= len(self.items) and not self.grows:
            raise ValueError(f"writes at {index} into a list of {len(self.items)}")
        longer = self._padded(max(len(self.items), index + 1), self.grows) if index >= 0 else self
        place = index if index >= 0 else index + len(self.items)
        if place < 0:
            raise ValueError(f"writes at {index} into a list of {len(self.items)}")
        stored = self.bytes + value.numel() * value.element_size()
        if stored > LIST_BYTES:
            raise LimitError(f"writes more than {LIST_BYTES} bytes into a list")
        items = (*longer.items[:place], value, *longer.items[place + 1 :])
        return TensorList(items, self.empty, self.grows, stored)

    def read(self, index: int) -> Tensor:
        """The element at `index`."""
        if not -len(self.items) <= index < len(self.items):
            raise ValueError(f"reads at {index} from a list of {len(self.items)}")
        item = self.items[index]
        return self.empty if item is None else item

    def _padded(self, length: int, grows: bool) -> TensorList:
        if not 0 <= length <= LIST_ELEMENTS:
            raise LimitError(f"makes a list of {length} elements, at most {LIST_ELEMENTS}")
        return TensorList((*self.items, *(None,) * (length - len(self.items))), self.empty, grows, self.bytes)


@dataclass
class State:
    """A MIL state: a tensor that is replaced, never changed in place."""

    value: Tensor


@dataclass(frozen=True)
class Label:
    """The class that `classify` chose."""

    value: str | int


@dataclass(frozen=True)
class Scores:
    """The numbers by class that `classify` gives."""

    by_class: dict[str | int, float]


@dataclass
class Budget:
    """Rounds that loops may still take in a run: a loop inside a loop uses them up together."""

    limit: int
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.limit

    def reset(self) -> None:
        """A new run begins."""
        self.left = self.limit

    def take(self) -> None:
        """One round. Raises `LimitError` if none is left."""
        if self.left <= 0:
            raise LimitError(f"loops without an end: {self.limit} rounds are over")
        self.left -= 1


Value: TypeAlias = "Tensor | TensorList | State | Label | Scores"
HELD = (Tensor, TensorList, State, Label, Scores)


def truth(value: Value, what: str) -> bool:
    """A boolean of one element. Raises `ValueError` for anything else."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"has a {what} that is no single boolean")
    return bool(value.reshape(()).item())


def stacked(items: Sequence[Tensor]) -> Tensor:
    """Elements of a list, on a new first axis."""
    return torch.stack(list(items))
