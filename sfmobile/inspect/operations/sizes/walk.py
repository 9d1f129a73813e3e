"""A walk through a program: sizes and small whole numbers of the values met so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sfmobile.mlpackage.program import Operand, Operation, Program

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Constant

Sizes: TypeAlias = "tuple[int, ...]"
Rule: TypeAlias = "Callable[[Walk, Operation], Sizes | Sequence[Sizes] | None]"
Number: TypeAlias = "Callable[[Walk, Operation], np.ndarray]"
# Whole numbers of at most so many elements are followed too: shapes that a program computes.
_SMALL = 64


class Walk:
    """Sizes and small whole numbers of the values met so far.

    rules, numbers: by kind of operation, the sizes of its results, and its result where that is a few whole numbers.
    """

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, Sizes],
        rules: Mapping[str, Rule],
        numbers: Mapping[str, Number],
    ) -> None:
        self.program = program
        self._rules, self._math = rules, numbers
        self.sizes: dict[str, Sizes] = {}
        self.numbers: dict[str, np.ndarray] = {}
        self.unknown = 0
        for name, type_ in program.inputs.items():
            if None not in type_.shape:
                self.sizes[name] = type_.sizes
            elif len(sizes.get(name, ())) == len(type_.shape):
                self.sizes[name] = sizes[name]

    def sized(self, operation: Operation) -> Operation:
        """`operation` with the sizes of its results."""
        found = self._follow(operation)
        outputs = []
        for place, (name, type_) in enumerate(operation.outputs):
            known = found[place] if found is not None and place < len(found) else None
            if None not in type_.shape:
                known = type_.sizes
            if known is not None and len(known) == len(type_.shape):
                self.sizes[name] = known
                type_ = replace(type_, shape=known)
            outputs.append((name, type_))
        self.unknown += any(None in type_.shape for _, type_ in outputs)
        self._compute(operation)
        return replace(operation, outputs=tuple(outputs))

    def _follow(self, operation: Operation) -> Sequence[Sizes] | None:
        rule = self._rules.get(operation.kind)
        if rule is None or not any(None in type_.shape for _, type_ in operation.outputs):
            return None
        try:
            found = rule(self, operation)
        except (ValueError, IndexError, ZeroDivisionError, TypeError):
            return None  # An operation that doesn't fit together has no sizes; running it says why.
        if found is None or any(isinstance(one, Sequence) for one in found):
            return found  # type: ignore[return-value]
        return [found]  # type: ignore[list-item]

    # --- operands ---

    def item(self, operation: Operation, argument: str) -> Operand | None:
        """The only operand under an argument, if it is the only one."""
        items = operation.inputs.get(argument, ())
        return items[0] if len(items) == 1 else None

    def size_of(self, item: Operand | None) -> Sizes | None:
        """Sizes of a value, where they are known."""
        constant: Constant | None = self.program.constant(item)
        if constant is not None:
            return constant.type.sizes
        return self.sizes.get(item) if isinstance(item, str) else None

    def shape(self, operation: Operation, argument: str = "x") -> Sizes:
        """Sizes of an operand. Raises `ValueError` if they aren't known."""
        found = self.size_of(self.item(operation, argument))
        if found is None:
            raise ValueError(argument)
        return found

    def number_of(self, item: Operand | None) -> np.ndarray | None:
        """A small constant, or a small value that sizes decide."""
        constant = self.program.constant(item)
        if constant is None:
            return self.numbers.get(item) if isinstance(item, str) else None
        if constant.type.data_type == "string" or constant.type.elements > _SMALL:
            return None
        value = constant.load()
        return None if isinstance(value, str) else value

    def integers(self, operation: Operation, argument: str, default: Sequence[int] | None = None) -> list[int]:
        """A small operand as whole numbers, `default` where it is absent. Raises `ValueError` if it isn't known."""
        if argument not in operation.inputs and default is not None:
            return list(default)
        value = self.number_of(self.item(operation, argument))
        if value is None:
            raise ValueError(argument)
        return [int(one) for one in value.reshape(-1)]

    def text(self, operation: Operation, argument: str, default: str) -> str:
        """A constant text, `default` where it is none."""
        constant = self.program.constant(self.item(operation, argument))
        value = None if constant is None else constant.load()
        return value if isinstance(value, str) else default

    def _compute(self, operation: Operation) -> None:
        """Follow the whole numbers that shapes are computed with."""
        value = self._math.get(operation.kind)
        if value is None or len(operation.outputs) != 1:
            return
        try:
            found = np.asarray(value(self, operation))
        except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
            return
        if found.size <= _SMALL:
            self.numbers[operation.outputs[0][0]] = found

    def value(self, operation: Operation, argument: str = "x") -> np.ndarray:
        """A small operand. Raises `ValueError` if it isn't known."""
        found = self.number_of(self.item(operation, argument))
        if found is None:
            raise ValueError(argument)
        return found


def slices(walk: Walk, operation: Operation, rank: int) -> list[tuple[int, int, int, int, int, int]]:
    """begin, end, stride, begin_mask, end_mask, squeeze_mask of each axis."""
    zeros = [0] * rank
    return list(
        zip(
            walk.integers(operation, "begin"),
            walk.integers(operation, "end"),
            walk.integers(operation, "stride", [1] * rank),
            walk.integers(operation, "begin_mask", zeros),
            walk.integers(operation, "end_mask", zeros),
            walk.integers(operation, "squeeze_mask", zeros),
            strict=True,
        )
    )
