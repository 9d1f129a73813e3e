from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.export import ExportedProgram

from sfmobile.bundle.manifest import ComponentName, TensorRecord
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


class Halved(nn.Module):
    """Written with a composition of torch that coremltools doesn't take."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second


@pytest.mark.parametrize("name", ["text_encoder", "unet", "decoder", "encoder"])
def test_our_networks_are_traced_once_and_it_gives_the_same_program(
    tiny_checkpoint: Checkpoint, name: ComponentName, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, setting = component_specs(tiny_checkpoint.with_components([name]))[name], Setting(tiny_checkpoint, (8, 8), 2)

    def drawn() -> bytes:
        net = tiny_checkpoint.unfilled(name).half()
        return draw_outline(net, spec.inputs(setting), spec.outputs(setting), "ios17").model.SerializeToString(
            deterministic=True
        )

    decomposed: list[ExportedProgram] = []
    decompose = ExportedProgram.run_decompositions

    def counted(program: ExportedProgram, table: dict[object, object]) -> ExportedProgram:
        decomposed.append(program)
        return decompose(program, table)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    once = drawn()
    assert decomposed == []
    monkeypatch.setattr("sfmobile.export.lowering.TAKEN_WHOLE", frozenset())
    assert drawn() == once and len(decomposed) == 1


def test_a_composition_that_coremltools_does_not_take_is_taken_apart() -> None:
    half = OUTPUT.model_copy(update={"shape": (1, 2, 8, 8)})
    kinds = [operation.type for operation in draw_outline(Halved().half(), (INPUT,), (half,), "ios17").block.operations]
    assert kinds.count("mul") == 1 and kinds.count("split") == 1


def test_a_weight_that_the_converter_computes_with_is_named() -> None:
    with pytest.raises(LoweringError, match=r"'conv\.weight' (was changed by|isn't in) the conver"):
        draw_outline(Scaled().half(), (INPUT,), (OUTPUT,), "ios17")
