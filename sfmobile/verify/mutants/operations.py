"""Faults in what operations are and by which numbers they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sfmobile.verify.mutants.editing import Change, Generator, Weights, name_of, own_value, value_of


def another_activation(operations: list[Any], place: int, _: Generator) -> Change:
    """An activation turned into another one."""
    operation = operations[place]
    others = {"silu": "sigmoid", "gelu": "silu", "sigmoid": "tanh"}
    new = others[operation.type]

    def edit(target: Any, _: list[Any], __: Weights) -> None:
        target.type = new
        for argument in tuple(target.inputs):
            if argument != "x":
                del target.inputs[argument]

    return Change(f"'{name_of(operation)}' is {new}", edit)


def integers_changed(
    argument: str, turn: Callable[[list[int]], list[int]]
) -> Callable[[list[Any], int, Generator], Change | None]:
    """A change of whole numbers that an operation computes by, in its own constant or in one that others share."""

    def change(operations: list[Any], place: int, _: Generator) -> Change | None:
        operation = operations[place]
        old = list(value_of(operation, operations, argument).immediateValue.tensor.ints.values)
        new = turn(old)
        if new == old:
            return None

        def edit(target: Any, everything: list[Any], __: Weights) -> None:
            value = own_value(target, everything, argument)
            del value.immediateValue.tensor.ints.values[:]
            value.immediateValue.tensor.ints.values.extend(new)

        return Change(f"{argument} of '{name_of(operation)}' is {new} for {old}", edit)

    return change


def one_sided(pads: list[int]) -> list[int]:
    """Pads as large together, all of them in front."""
    return [pads[0] + pads[1], 0, pads[2] + pads[3], 0] if any(pads) else pads


def approximated(operations: list[Any], place: int, _: Generator) -> Change | None:
    """A GELU approximated by tanh."""
    operation = operations[place]
    if "mode" not in operation.inputs:
        return None

    def edit(target: Any, everything: list[Any], __: Weights) -> None:
        value = own_value(target, everything, "mode")
        value.immediateValue.tensor.strings.values[0] = "TANH_APPROXIMATION"

    return Change(f"'{name_of(operation)}' is approximated by tanh", edit)
