"""From an ML Program to a Core AI program, operation by operation, without torch and without decoding a palette."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sfmobile.errors import UnavailableError
from sfmobile.mlpackage.program import Operation, Program
from sfmobile.mlpackage.rewriting import rewrite
from sfmobile.runtime.coreai import attention, elementwise, layers, library, norms, shapes
from sfmobile.runtime.coreai.builder import GraphBuilder, Operands
from sfmobile.runtime.coreai.registry import BRIDGES
from sfmobile.runtime.mil.fusion import fuse_group_norm

if TYPE_CHECKING:
    from coreai.authoring import AIProgram, Value
    from coreai.runtime import AIModelAssetMetadata

__all__ = ["attention", "bridge", "elementwise", "layers", "norms", "shapes", "write_asset"]

# What Apple's runtime on Linux computes in another way than `mil`'s fp16 evaluation, which computes wide and rounds
# once: matrix products are summed one by one in float16, gelu rounds 1 + erf. With `widened` both are wide.
WIDENED = ("matmul", "linear", "einsum", "gelu")


def bridge(
    programs: Mapping[str, Program],
    precision: Literal["fp32", "fp16"] = "fp32",
    *,
    widened: bool = False,
    shipped: bool = False,
) -> AIProgram:
    """Programs with static shapes as the functions of one Core AI program; equal weights are stored once.

    widened: see `WIDENED`. shipped: group norms, four operations of an ML Program, become the one that Apple's
    compiler has for them, and norms scale and shift in float16; without it every operation stands for itself and
    rounds once.

    Raises `UnavailableError` for what has no counterpart, naming package, operation and position, and where Apple's
    package isn't.
    """
    library.require()
    from coreai.authoring import AIProgram, Module

    module = Module.create()
    with module:
        for name, program in programs.items():
            whole = rewrite(program, (fuse_group_norm,)) if shipped else program
            _add_function(name, GraphBuilder(whole, precision, widened=widened, shipped=shipped))
    return AIProgram(module)


def write_asset(program: AIProgram, path: Path, metadata: AIModelAssetMetadata | None = None) -> None:
    """Write a program as `path`, which ends in .aimodel and doesn't exist yet, with what it says of itself.

    Its bytes differ from run to run; what is hashed for reuse is what it was made from.
    """
    program.save_asset(path, metadata)


def _add_function(name: str, builder: GraphBuilder) -> None:
    from coreai.authoring import TensorType, graph

    program = builder.program
    builder.types.update(program.output_types())

    def tensor(value: str) -> TensorType:
        return TensorType(builder.shape_of(value), builder.number(builder.types[value]))

    def body(*arguments: Value) -> tuple[Value, ...]:
        builder.values.update(zip(program.inputs, arguments, strict=True))
        for operation in program.operations:
            _add_operation(builder, operation)
        return tuple(builder.values[output] for output in program.outputs)

    inputs = {value: tensor(value) for value in program.inputs}
    outputs = {value: tensor(value) for value in program.outputs}
    graph(library.declared(name, body, inputs, outputs))


def _add_operation(builder: GraphBuilder, operation: Operation) -> None:
    builder.types.update(dict(operation.outputs))
    function = BRIDGES.get(operation.kind)
    if function is None:
        raise _unbridged(builder.program, operation, "is an operation")
    try:
        results = function(Operands(builder, operation))
    except ValueError as error:
        raise _unbridged(builder.program, operation, str(error)) from error
    values = results if isinstance(results, list) else [results]
    for (name, _), value in zip(operation.outputs, values, strict=True):
        builder.values[name] = value


def _unbridged(program: Program, operation: Operation, found: str) -> UnavailableError:
    return UnavailableError(
        f"{program.package.name}: {operation} {found}, which has no counterpart in Core AI here; use the mil runtime."
    )
