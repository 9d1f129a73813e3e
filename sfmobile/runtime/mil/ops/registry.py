"""The op table: one torch function per MIL op, registered by decorator.

A function takes its tensors as positional parameters and its attributes as keyword-only ones, all named as in the MIL
reference; attributes arrive as plain Python values (int, float, bool, str, or tuples of them), whether they were
constants of the program or were computed at run time. Every float tensor is float32, whatever the program declares.
A parameter annotated `Sequence[Tensor]` (or `Sequence[int]` among attributes) is variadic in the program too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import torch

from sfmobile.runtime.mil.values import Value

Outputs: TypeAlias = "Value | Sequence[Value]"
OpFunction = TypeVar("OpFunction", bound=Callable[..., Outputs])

# What a MIL data type is held in. torch can't compute with uint16 and uint32, so they are held wider.
TORCH_TYPES: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "fp16": torch.float32,
    "bf16": torch.float32,
    "fp32": torch.float32,
    "fp64": torch.float32,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
}


@dataclass(frozen=True)
class Op:
    """An entry of the table.

    exact: given float16-representable inputs the outputs are float16-representable, so nothing is rounded.
    fresh: the one output is always memory of its own, never a view of an input.
    varies: the same operands don't always give the same, so it isn't computed ahead.
    tensors: positional parameters and attributes: keyword-only ones, in the order of the signature.
    """

    kind: str
    function: Callable[..., Outputs]
    exact: bool
    fresh: bool
    varies: bool
    tensors: tuple[str, ...]
    attributes: tuple[str, ...]
    required: frozenset[str]
    variadic: frozenset[str]
    choices: dict[str, tuple[str, ...]]


OPS: dict[str, Op] = {}


def op(
    kind: str, *, exact: bool = False, fresh: bool = False, varies: bool = False
) -> Callable[[OpFunction], OpFunction]:
    """Register the decorated function as MIL op `kind`."""

    def register(function: OpFunction) -> OpFunction:
        tensors: list[str] = []
        attributes: list[str] = []
        required: set[str] = set()
        variadic: set[str] = set()
        choices: dict[str, tuple[str, ...]] = {}
        hints = get_type_hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            (attributes if parameter.kind is inspect.Parameter.KEYWORD_ONLY else tensors).append(name)
            if parameter.default is inspect.Parameter.empty:
                required.add(name)
            hint = hints[name]
            if get_origin(hint) is Sequence:
                variadic.add(name)
            if get_origin(hint) is Literal:
                choices[name] = get_args(hint)
        OPS[kind] = Op(
            kind,
            function,
            exact,
            fresh,
            varies,
            tuple(tensors),
            tuple(attributes),
            frozenset(required),
            frozenset(variadic),
            choices,
        )
        return function

    return register


def axis_from_start(axis: int, rank: int) -> int:
    """`axis` counted from the start."""
    return axis + rank if axis < 0 else axis
