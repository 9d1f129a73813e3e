"""Operands and attributes of one operation by name, for whatever translates programs into another kind of graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from sfmobile.mlpackage.program import Constant, Operand, Operation, Program

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class Translator(Protocol[Result_co]):
    """What builds the other graph: gives its value of an operand."""

    @property
    def program(self) -> Program:
        """What is translated."""

    def operand(self, item: Operand, /) -> Result_co:
        """The other graph's value."""


class NamedOperands(Generic[Result]):
    """Operands and attributes of one operation, by the names of the MIL reference."""

    def __init__(self, translator: Translator[Result], operation: Operation) -> None:
        self.operation = operation
        self._translator = translator

    def item(self, name: str) -> Operand:
        """The one operand `name`. Raises `ValueError` without it."""
        items = self.operation.inputs.get(name, ())
        if len(items) != 1:
            raise ValueError(f"has {len(items)} values for '{name}'")
        return items[0]

    def __contains__(self, name: str) -> bool:
        return bool(self.operation.inputs.get(name))

    def __getitem__(self, name: str) -> Result:
        """The other graph's value of the operand `name`."""
        return self._translator.operand(self.item(name))

    def all(self, name: str) -> list[Result]:
        """The other graph's values of a variadic operand."""
        return [self._translator.operand(item) for item in self.operation.inputs[name]]

    def array(self, name: str) -> np.ndarray | str:
        """A constant operand's array. Raises `ValueError` if it is computed."""
        constant: Constant | None = self._translator.program.constant(self.item(name))
        if constant is None:
            raise ValueError(f"computes its '{name}'")
        return constant.load()

    def constant(self, name: str, default: Any = None) -> Any:
        """A constant attribute as a Python value (lists for vectors), or `default`. Raises `ValueError` if computed."""
        if name not in self:
            return default
        value = self.array(name)
        return value if isinstance(value, str) else value.tolist()

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """A string attribute that must be one of `allowed`."""
        value = str(self.constant(name, default))
        if value not in allowed:
            raise ValueError(f"has {name} '{value}'")
        return value
