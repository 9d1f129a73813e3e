"""From a program to an ONNX model whose weights stay beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.errors import UnavailableError
from sfmobile.mlpackage.program import Operation, Program
from sfmobile.mlpackage.rewriting import rewrite
from sfmobile.mlpackage.types import TensorType
from sfmobile.runtime.mil.fusion import FUSIONS
from sfmobile.runtime.onnx import attention, elementwise, layers, pooling, shapes
from sfmobile.runtime.onnx.builder import CONTRIB_DOMAIN, Arguments, GraphBuilder
from sfmobile.runtime.onnx.registry import TRANSLATORS

if TYPE_CHECKING:
    import onnx

__all__ = ["Translation", "attention", "elementwise", "layers", "pooling", "shapes", "translate"]

# Gelu came with opset 20; IR 10 is what ONNX Runtime reads since 1.18.
OPSET = 20
IR_VERSION = 10


@dataclass(frozen=True)
class Translation:
    """An ONNX model and the initializers it names as external: float32 and int32 arrays by name."""

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]


def translate(program: Program) -> Translation:
    """`program` with static shapes as ONNX, in float32 throughout, group norm and attention as one call each.

    Raises `UnavailableError` naming package, operation and position for what has no translation.
    """
    from onnx import helper

    program = rewrite(program, FUSIONS)
    builder = GraphBuilder(program)
    for operation in program.operations:
        _translate_operation(builder, operation)
    inputs = [_value_info(name, type_) for name, type_ in program.inputs.items()]
    outputs = [_value_info(name, type_) for name, type_ in program.output_types().items()]
    graph = helper.make_graph(builder.nodes, program.function, inputs, outputs, builder.inline)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB_DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="sfmobile",
    )
    return Translation(model, builder.weights)


def _translate_operation(builder: GraphBuilder, operation: Operation) -> None:
    translator = TRANSLATORS.get(operation.kind)
    if translator is None:
        raise _untranslatable(builder.program, operation, "is an operation")
    try:
        translator(builder, Arguments(builder, operation))
    except ValueError as error:
        raise _untranslatable(builder.program, operation, str(error)) from error


def _untranslatable(program: Program, operation: Operation, found: str) -> UnavailableError:
    return UnavailableError(
        f"{program.package.name}: {operation} {found}, which has no translation to ONNX; use the mil runtime."
    )


def _value_info(name: str, type_: TensorType) -> Any:
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT if type_.is_float else TensorProto.INT32
    return helper.make_tensor_value_info(name, kind, list(type_.shape))
