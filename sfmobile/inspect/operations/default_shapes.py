"""The types of a flexible program at its default input shapes, so that costs are those of one real call.

A program knows that a size varies, the description what it is by default; how sizes go from value to value stands in
the operations. Followed are those that people's vision, speech and text networks are made of; behind any other the
size stays unknown and counts 1, and `unknown` says how many operations that are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sfmobile.inspect.operations.sizes.numbers import SHAPE_MATH
from sfmobile.inspect.operations.sizes.rules import RULES
from sfmobile.inspect.operations.sizes.walk import Sizes, Walk
from sfmobile.mlpackage.description import Array, Description, Image
from sfmobile.mlpackage.program import Program


@dataclass(frozen=True)
class Sized:
    """A program with its types at the default shapes. unknown: operations whose sizes couldn't be followed."""

    program: Program
    unknown: int


def default_sizes(description: Description) -> dict[str, Sizes]:
    """The default shape of each input that has one."""
    found: dict[str, Sizes] = {}
    for name, feature in description.inputs.items():
        if isinstance(feature.kind, Array) and feature.kind.shape:
            found[name] = feature.kind.shape
        elif isinstance(feature.kind, Image):
            found[name] = (1, feature.kind.channels, *feature.kind.size)
    return found


def at_default_shapes(program: Program, description: Description) -> Sized:
    """`program` with every type as it is in a call with the default shapes."""
    if not any(None in type_.shape for type_ in program.inputs.values()):
        return Sized(program, 0)
    walk = Walk(program, default_sizes(description), RULES, SHAPE_MATH)
    operations = [walk.sized(operation) for operation in program.operations]
    inputs = {
        name: replace(type_, shape=walk.sizes.get(name, type_.shape)) if None in type_.shape else type_
        for name, type_ in program.inputs.items()
    }
    return Sized(replace(program, inputs=inputs, operations=operations), walk.unknown)
