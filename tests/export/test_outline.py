from __future__ import annotations

import pytest
from torch import Tensor, nn

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.component import Setting, component_specs
from sfmobile.export.lowering import LoweringError
from sfmobile.export.outline import left_out
from sfmobile.export.outlining import draw_outline

INPUT = TensorRecord(name="x", shape=(1, 4, 8, 8), dtype="float16", description="x")
OUTPUT = TensorRecord(name="y", shape=(1, 4, 8, 8), dtype="float16", description="y")


class Scaled(nn.Module):
    """A convolution by twice its weight: a product that a converter computes beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight * 2)


def test_an_outline_names_every_weight_and_holds_none(tiny_checkpoint: Checkpoint) -> None:
    setting = Setting(tiny_checkpoint, (8, 8), 2)
    for name, spec in component_specs(tiny_checkpoint).items():
        net = tiny_checkpoint.unfilled(name).half()
        outline = draw_outline(net, spec.inputs(setting), spec.outputs(setting), "ios17")
        values = [op.attributes["val"] for op in outline.block.operations if op.type == "const"]
        keys = [key for value in values if (key := left_out(value)) is not None]
        assert sorted(keys) == sorted(tiny_checkpoint.shapes(name))
        assert not any(value.WhichOneof("value") == "blobFileValue" for value in values if left_out(value) is None)


def test_a_weight_that_the_converter_computes_with_is_named() -> None:
    with pytest.raises(LoweringError, match=r"'conv\.weight' (was changed by|isn't in) the conver"):
        draw_outline(Scaled().half(), (INPUT,), (OUTPUT,), "ios17")
