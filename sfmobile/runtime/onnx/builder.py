"""The ONNX graph under construction: nodes, constants, and the operands of the operation being translated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.operands import NamedOperands
from sfmobile.mlpackage.program import Constant, Operand, Operation, Program

if TYPE_CHECKING:
    import onnx

# Constants larger than this stay out of the protobuf, which ends at 2 GB.
_INLINE_BYTES = 1024
CONTRIB_DOMAIN = "com.microsoft"


class GraphBuilder:
    """Collects nodes. Every float is FLOAT, every integer INT32 but for ONNX's own INT64 shapes; bool is BOOL."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph(program)
        self.nodes: list[onnx.NodeProto] = []
        self.inline: list[onnx.TensorProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._constants: dict[str, str] = {}
        self._count = 0

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; the name of its first output."""
        from onnx import helper

        named = list(outputs) if outputs is not None else [self.new_name(kind)]
        self.nodes.append(helper.make_node(kind, list(inputs), named, domain=domain, **attributes))
        return named[0]

    def new_name(self, stem: str) -> str:
        """A name that no value of the program has."""
        self._count += 1
        return f"{stem}:{self._count}"

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        """Name of an initializer with `value`, float32, int32, int64 or bool."""
        from onnx import TensorProto, helper, numpy_helper

        name = name or self.new_name("constant")
        if value.nbytes <= _INLINE_BYTES:
            self.inline.append(numpy_helper.from_array(value, name))
            return name
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            dims=value.shape,
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value="memory")
        self.inline.append(tensor)
        self.weights[name] = value
        return name

    def integers(self, *values: int) -> str:
        """An INT64 vector, as ONNX takes shapes and axes."""
        return self.constant(np.array(values, dtype=np.int64))

    def operand(self, item: Operand) -> str:
        """Name of the ONNX value for an operand of the program."""
        if isinstance(item, Constant):
            return self.constant(onnx_array(item))
        if item in self.program.constants:
            if item not in self._constants:
                self._constants[item] = self.constant(onnx_array(self.program.constants[item]), f"weight:{item}")
            return self._constants[item]
        return item

    def shape(self, item: Operand) -> tuple[int, ...]:
        """Static shape of an operand. Raises `ValueError` if part of it is unknown."""
        shape = self.graph.shape(item)
        if shape is None:
            raise ValueError(f"has an operand of type {self.graph.type_of(item)}")
        return shape


def onnx_array(constant: Constant) -> np.ndarray:
    """A constant as ONNX holds it here."""
    value = constant.load()
    if isinstance(value, str):
        raise ValueError(f"has the string '{value}' for a tensor")
    if constant.type.is_float:
        return np.ascontiguousarray(value, dtype=np.float32)
    return np.ascontiguousarray(value, dtype=np.bool_ if value.dtype == np.bool_ else np.int32)


class Arguments(NamedOperands[str]):
    """Operands and attributes of one operation, as names of ONNX values."""

    def __init__(self, builder: GraphBuilder, operation: Operation) -> None:
        super().__init__(builder, operation)
        self.builder = builder

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the operand `name`."""
        return self.builder.shape(self.item(name))

    @property
    def outputs(self) -> list[str]:
        """Names of the results."""
        return list(self.operation.makes())

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.builder.shape(self.outputs[0])
