"""Faults in what operations read and give."""

from __future__ import annotations

from typing import Any

from sfmobile.mlpackage.types import tensor_type
from sfmobile.verify.mutants.editing import Change, Generator, Weights, name_of, type_of


def rewired(operations: list[Any], place: int, generator: Generator) -> Change | None:
    """An operand taken from another operation of the same type: a head's keys from its neighbour, another skip."""
    types = {name_of(operation): type_of(operation) for operation in operations[:place] if operation.type != "const"}
    types = {name: type_ for name, type_ in types.items() if type_ is not None}
    operation = operations[place]
    choices = []
    for argument in ("x", "y", "values"):
        for index, binding in enumerate(operation.inputs[argument].arguments if argument in operation.inputs else ()):
            if binding.WhichOneof("binding") == "name" and binding.name in types:
                others = [n for n, t in types.items() if t == types[binding.name] and n != binding.name]
                choices += [(argument, index, binding.name, other) for other in others]
    if not choices:
        return None
    argument, index, old, new = choices[int(generator.integers(len(choices)))]

    def edit(target: Any, _: list[Any], __: Weights) -> None:
        target.inputs[argument].arguments[index].name = new

    return Change(f"'{name_of(operation)}' reads '{new}' for '{old}'", edit)


def subtracted(operations: list[Any], place: int, _: Generator) -> Change | None:
    """A sum turned into a difference."""
    operation = operations[place]
    x, y = (operation.inputs[name].arguments[0] for name in ("x", "y"))
    if "name" not in (x.WhichOneof("binding"), y.WhichOneof("binding")) or x.name == y.name:
        return None

    def edit(target: Any, _: list[Any], __: Weights) -> None:
        target.type = "sub"

    return Change(f"'{name_of(operation)}' subtracts", edit)


def swapped_operands(operations: list[Any], place: int, _: Generator) -> Change | None:
    """A concatenation in the other order."""
    operation = operations[place]
    names = [binding.name for binding in operation.inputs["values"].arguments]
    if len(set(names)) < 2:
        return None

    def edit(target: Any, _: list[Any], __: Weights) -> None:
        for binding, name in zip(target.inputs["values"].arguments, reversed(names), strict=True):
            binding.name = name

    return Change(f"'{name_of(operation)}' joins its operands in the other order", edit)


def swapped_results(operations: list[Any], place: int, _: Generator) -> Change | None:
    """The first two parts of a split exchanged."""
    operation = operations[place]
    names = [output.name for output in operation.outputs]
    if len({_shape_of(output) for output in operation.outputs}) != 1 or len(names) < 2:
        return None

    def edit(target: Any, _: list[Any], __: Weights) -> None:
        target.outputs[0].name, target.outputs[1].name = names[1], names[0]

    return Change(f"'{name_of(operation)}' gives its first two parts in the other order", edit)


def another_weight(operations: list[Any], place: int, generator: Generator) -> Change | None:
    """A convolution that reads the weight of another one of the same shape."""
    operation = operations[place]
    types = {name_of(one): type_of(one) for one in operations if one.type in ("const", "constexpr_lut_to_dense")}
    own = operation.inputs["weight"].arguments[0].name
    others = [
        name
        for other in operations
        if other.type == "conv" and (name := other.inputs["weight"].arguments[0].name) != own
        if types.get(name) is not None and types.get(name) == types.get(own)
    ]
    # What is decoded further on isn't known yet here.
    others = [name for name in others if name in {name_of(one) for one in operations[:place]}]
    if not others:
        return None
    new = others[int(generator.integers(len(others)))]

    def edit(target: Any, _: list[Any], __: Weights) -> None:
        target.inputs["weight"].arguments[0].name = new

    return Change(f"'{name_of(operation)}' reads '{new}' for '{own}'", edit)


def left_out(operations: list[Any], place: int, _: Generator) -> Change | None:
    """A sum of which only the first operand arrives: a shortcut, a bias or a position dropped."""
    operation = operations[place]
    binding = operation.inputs["x"].arguments[0]
    types = {name_of(one): type_of(one) for one in operations[:place]}
    if binding.WhichOneof("binding") != "name" or types.get(binding.name) != type_of(operation):
        return None
    name, kept = name_of(operation), binding.name

    def edit(_: Any, everything: list[Any], __: Weights) -> None:
        for other in everything:
            for bindings in other.inputs.values():
                for argument in bindings.arguments:
                    if argument.WhichOneof("binding") == "name" and argument.name == name:
                        argument.name = kept

    return Change(f"'{name}' passes on '{kept}' alone", edit)


def _shape_of(output: Any) -> tuple[int | None, ...]:
    return tensor_type(output.type).shape
