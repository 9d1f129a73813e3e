"""What sfmobile uses of coremltools beyond its documentation is there, and what it replaces is given back.

`make newest-coremltools` runs this file on the newest coremltools of the package index, with the tests of what stands
on these names.
"""

from __future__ import annotations

import inspect
import threading
from pathlib import Path

import coremltools as ct
import pytest
import torch
from coremltools.converters.mil.frontend.torch import torch_op_registry
from torch import nn

import sfmobile
from sfmobile.bundle.manifest import TensorRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UnavailableError
from sfmobile.export import coremltools_names, lowering
from sfmobile.export.coremltools_names import (
    NAMES,
    PROGRAM,
    Name,
    faults,
    torch_lowerings,
    without_printed_programs,
    without_progress_bars,
)
from sfmobile.export.exporter import export_bundle
from sfmobile.export.lowering import lower, trace
from sfmobile.export.mil_ops import LOWERINGS
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage import schema
from tests.test_structure import MODULES, imported

REGISTERED = torch_op_registry._TORCH_OPS_REGISTRY.name_to_func_mapping
# What coremltools documents; everything else is named in `coremltools_names`.
PUBLIC = {
    "coremltools",
    "coremltools.target",
    "coremltools.converters.mil",
    "coremltools.converters.mil.Builder",
    "coremltools.models.compute_plan",
    "coremltools.models.compute_plan.MLComputePlan",
}
TENSOR = TensorRecord(name="x", shape=(1, 4), dtype="float16")


class Halved(nn.Module):
    """A product with a Python number, which sfmobile lowers in its own way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x


def lower_halved() -> object:
    return lower(trace(Halved(), [TENSOR]), [TENSOR], [TENSOR.model_copy(update={"name": "y"})], "ios17")


def convert_halved() -> object:
    """As anybody would convert it, without passes that would tidy up behind the operators."""
    traced = torch.export.export(Halved().eval(), (torch.zeros(1, 4, dtype=torch.float16),)).run_decompositions({})
    return ct.convert(
        traced,
        convert_to="milinternal",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )


def kinds(program: object) -> set[str]:
    return {op.op_type for op in program.functions["main"].operations if op.op_type != "const"}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name.module}.{name.path}")
def test_every_name_is_there_and_takes_what_it_is_given(name: Name) -> None:
    assert name.fault() is None


def test_every_pass_is_registered() -> None:
    registry = coremltools_names.PASS_REGISTRY.load()
    assert [name for name in lowering.PASSES if name not in registry] == []


def test_the_protobuf_classes_are_where_they_are_read_from() -> None:
    assert schema.mil().Program.DESCRIPTOR.full_name == "CoreML.Specification.MILSpec.Program"
    assert schema.model().Model.DESCRIPTOR.full_name == "CoreML.Specification.Model"


def test_a_name_that_went_is_told_with_its_version_reason_and_mend() -> None:
    gone = Name("coremltools.converters.mil.mil", "gone", "to test")
    with pytest.raises(UnavailableError, match=r"has no '\S+\.mil\.gone', which sfmobile needs to test; run"):
        gone.load()
    fault = gone.fault()
    assert fault is not None and f"coremltools {ct.__version__} has" in fault and "coremltools==9.0" in fault


def test_a_changed_signature_and_a_missing_attribute_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Name("coremltools.converters.mil.frontend.torch.ops", "_get_inputs", "", takes=("context", "wanted"))
    assert "takes no wanted, but context, node" in str(changed.fault())
    lacking = Name("coremltools.converters.mil.mil", "types", "", has=("fp16", "fp12"))
    assert "has no fp12" in str(lacking.fault())
    monkeypatch.setattr(coremltools_names, "NAMES", (changed, lacking, *NAMES))
    assert len(faults()) == 2


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(Path(sfmobile.__file__).parent)))
def test_no_other_module_reaches_into_coremltools(path: Path) -> None:
    used = {name for name in imported(path) if name.split(".")[0] == "coremltools"}
    reached = {name for name in used - PUBLIC if not name.startswith("coremltools.proto")}
    if path == Path(inspect.getfile(coremltools_names)):
        assert reached
    else:
        assert not reached


def test_an_export_leaves_coremltools_as_it_was(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = dict(REGISTERED)
    export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(components=("decoder",)))
    assert before == REGISTERED


def test_a_foreign_conversion_after_ours_uses_coremltools_own_operators() -> None:
    """coremltools' own `mul` casts to float32, ours doesn't: what a program holds tells which was at work."""
    before = kinds(convert_halved())
    assert kinds(lower_halved()) == {"mul"} and before == {"mul", "cast"}
    assert kinds(convert_halved()) == before


def test_what_was_replaced_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(REGISTERED)

    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setitem(LOWERINGS, "mul", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        lower_halved()
    assert before == REGISTERED


def test_lowerings_may_be_nested() -> None:
    before = dict(REGISTERED)
    one, two = (lambda context, node: None), (lambda context, node: None)
    with torch_lowerings({"mul": one, "sfmobile::new": one}):
        with torch_lowerings({"mul": two, "sfmobile::newer": two}):
            assert (REGISTERED["mul"], REGISTERED["sfmobile::newer"]) == (two, two)
            lower_halved()
            assert (REGISTERED["mul"], REGISTERED["sfmobile::new"]) == (two, one)
        assert REGISTERED["mul"] is one and "sfmobile::newer" not in REGISTERED
    assert before == REGISTERED


def test_another_thread_waits_until_what_was_replaced_is_back() -> None:
    before, seen = dict(REGISTERED), []
    mine, theirs = (lambda context, node: None), (lambda context, node: None)

    def other() -> None:
        with torch_lowerings({"mul": theirs}):
            seen.append(REGISTERED["mul"])

    thread = threading.Thread(target=other)
    with torch_lowerings({"mul": mine}):
        thread.start()
        thread.join(0.1)
        assert thread.is_alive() and REGISTERED["mul"] is mine
    thread.join()
    assert seen == [theirs] and before == REGISTERED


def test_conversions_draw_no_bars_and_afterwards_draw_again(capfd: pytest.CaptureFixture[str]) -> None:
    def convert() -> str:
        convert_halved()
        return capfd.readouterr().err

    assert "passes" in convert()
    with without_progress_bars(), without_progress_bars():
        assert convert() == ""
    assert "passes" in convert()


def test_errors_of_coremltools_reach_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setitem(LOWERINGS, "mul", fails)
    with pytest.raises(RuntimeError):
        lower_halved()
    (said,) = [record for record in caplog.records if record.name == "coremltools"]
    assert said.levelname == "ERROR" and "converting 'mul' op" in said.getMessage()


def test_programs_have_no_text_while_they_are_converted_and_have_it_again() -> None:
    kind = PROGRAM.load()
    found = kind.__str__
    with pytest.raises(RuntimeError), without_printed_programs():
        assert kind.__str__ is object.__repr__
        raise RuntimeError
    assert kind.__str__ is found
