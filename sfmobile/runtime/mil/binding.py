"""One operation resolved against the op table: which values it reads, in calling order, and the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sfmobile.errors import ArtifactError
from sfmobile.mlpackage.program import Constant, Operand, Operation, Program
from sfmobile.runtime.mil.ops import OPS, TORCH_TYPES, Op
from sfmobile.runtime.mil.values import Value

Call: TypeAlias = "Callable[..., Value | Sequence[Value]]"


@dataclass(frozen=True)
class Bound:
    """`call(*operands)` computes `operation`; an absent optional operand is None.

    attributes: the constant ones, bound into `call` already.
    """

    operation: Operation
    op: Op
    call: Call
    operands: list[Operand | None]
    attributes: dict[str, object]


def constant_tensor(constant: Constant) -> Tensor:
    """A constant as the ops take it: floats as float32, integers in their own type or a wider one."""
    value = constant.load()
    if isinstance(value, str):
        raise ArtifactError(f"The program has the string '{value}' where a tensor is expected; export it again.")
    wanted = TORCH_TYPES[constant.type.data_type]
    if value.dtype in (np.uint16, np.uint32, np.uint64):
        value = value.astype(np.int64)
    return torch.from_numpy(value).to(wanted)


def attribute_value(value: np.ndarray | str) -> object:
    """A constant attribute as plain Python: a scalar, or (nested) tuples of scalars."""
    return value if isinstance(value, str) else _tuples(value.tolist())


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def bind(program: Program, operation: Operation) -> Bound:
    """Resolve names and attributes of `operation`.

    Raises `UnavailableError` for an op, argument or attribute value that the table doesn't know, `ArtifactError` for
    an argument that is missing or given more often than it may be.
    """
    entry = OPS.get(operation.kind)
    if entry is None:
        raise program.error(operation, "is an operation")
    unknown = set(operation.inputs) - set(entry.tensors) - set(entry.attributes)
    if unknown:
        raise program.error(operation, f"has an argument '{sorted(unknown)[0]}'")
    missing = entry.required - set(operation.inputs)
    if missing:
        raise ArtifactError(f"{program.package.name}: {operation} lacks its argument '{sorted(missing)[0]}'.")
    operands: list[Operand | None] = []
    for name in entry.tensors:
        if name in entry.variadic:
            operands.extend(operation.inputs.get(name, ()))
        else:
            operands.append(_single(program, operation, name) if name in operation.inputs else None)
    attributes, dynamic = _attributes(program, operation, entry)
    operands.extend(_single(program, operation, name) for name in dynamic)
    gathers = any(name in entry.variadic for name in entry.tensors)
    call: Call
    if gathers or dynamic:
        fixed = sum(name not in entry.variadic for name in entry.tensors)
        call = partial(_call, entry.function, fixed, tuple(dynamic), attributes, gathers)
    else:
        while operands and operands[-1] is None:
            operands.pop()
        call = partial(entry.function, **attributes) if attributes else entry.function
    return Bound(operation, entry, call, operands, attributes)


def _attributes(program: Program, operation: Operation, entry: Op) -> tuple[dict[str, object], list[str]]:
    """The constant attributes as Python values, and the names of those computed at run time."""
    attributes: dict[str, object] = {}
    dynamic: list[str] = []
    for name in entry.attributes:
        items = operation.inputs.get(name)
        if items is None:
            continue
        constants = [program.constant(item) for item in items]
        values = [attribute_value(constant.load()) for constant in constants if constant is not None]
        if len(values) != len(constants):
            dynamic.append(name)
            continue
        if name not in entry.variadic:
            _single(program, operation, name)
        attributes[name] = tuple(values) if name in entry.variadic else values[0]
        if name in entry.choices and attributes[name] not in entry.choices[name]:
            raise program.error(operation, f"has {name} '{attributes[name]}'")
    return attributes, dynamic


def _single(program: Program, operation: Operation, name: str) -> Operand:
    items = operation.inputs[name]
    if len(items) != 1:
        raise ArtifactError(f"{program.package.name}: {operation} has {len(items)} values for '{name}'; expected one.")
    return items[0]


def _call(
    function: Call,
    fixed: int,
    dynamic: tuple[str, ...],
    attributes: dict[str, object],
    gathers: bool,
    *arguments: Any,
) -> Value | Sequence[Value]:
    """Call an op whose operands need shaping: a variadic last tensor, or attributes computed at run time."""
    tensors = arguments[: len(arguments) - len(dynamic)]
    computed = {
        name: _tuples(value.tolist())
        for name, value in zip(dynamic, arguments[len(tensors) :], strict=True)
        if value is not None
    }
    if gathers:
        return function(*tensors[:fixed], tensors[fixed:], **attributes, **computed)
    return function(*tensors, **attributes, **computed)
