"""A network's program without its weights: what tracing, lowering and the passes make of its layout and shapes.

Weights are left out before the network is traced (`outlining.py`): each is one zero, seen through the weight's shape.
No pass can fold one into something else unnoticed, for the constant would no longer be that zero; so an outline can't
depend on weights, and one outline serves every checkpoint of a layout, at any bits.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from sfmobile.mlpackage.package import MAIN
from sfmobile.mlpackage.types import tensor_type

# What stands in a program's weight file name in place of a file: the state-dict key behind it says which weight.
LEFT_OUT = "@weights/"


@dataclass(frozen=True)
class Outline:
    """model: the model file's protobuf, each weight a value of the file "@weights/KEY", other constants written in."""

    model: Any

    @property
    def block(self) -> Any:
        """The operations and outputs of its one function."""
        function = self.model.mlProgram.functions[MAIN]
        return function.block_specializations[function.opset]

    def values(self, constants: Container[str]) -> int:
        """How many values the weights of these names hold together."""
        return sum(
            tensor_type(operation.outputs[0].type).elements
            for operation in self.block.operations
            if operation.type == "const" and operation.outputs[0].name in constants
        )


def left_out(value: Any) -> str | None:
    """The state-dict key of the weight that a protobuf value stands for, if it stands for one."""
    if value.WhichOneof("value") != "blobFileValue" or not value.blobFileValue.fileName.startswith(LEFT_OUT):
        return None
    return str(value.blobFileValue.fileName.removeprefix(LEFT_OUT))
