from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.inspect.operations.compute_plan import ComputePlan, plan_from, read_plan, record_plan
from sfmobile.mlpackage.program import load_program


class MLNeuralEngineComputeDevice:
    """Named as coremltools' class is: the record goes by the name."""


class MLCPUComputeDevice:
    """As above."""


def fake_plan() -> Any:
    """What coremltools' MLComputePlan looks like: operations with outputs, usages and costs."""

    def operation(output: str, operator: str) -> Any:
        return SimpleNamespace(outputs=[SimpleNamespace(name=output)], operator_name=operator)

    operations = [operation("a", "ios17.conv"), operation("b", "ios17.gather"), operation("c", "const")]
    usages = {
        "a": SimpleNamespace(
            preferred_compute_device=MLNeuralEngineComputeDevice(),
            supported_compute_devices=[MLCPUComputeDevice(), MLNeuralEngineComputeDevice()],
        ),
        "b": SimpleNamespace(
            preferred_compute_device=MLCPUComputeDevice(), supported_compute_devices=[MLCPUComputeDevice()]
        ),
    }
    costs = {"a": SimpleNamespace(weight=0.9), "b": SimpleNamespace(weight=0.1)}
    block = SimpleNamespace(operations=operations)
    program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})
    return SimpleNamespace(
        model_structure=SimpleNamespace(program=program),
        get_compute_device_usage_for_mlprogram_operation=lambda one: usages.get(one.outputs[0].name),
        get_estimated_cost_for_mlprogram_operation=lambda one: costs.get(one.outputs[0].name),
    )


def test_a_plan_is_kept_by_output_operator_unit_and_cost(tmp_path: Path) -> None:
    plan = plan_from(fake_plan(), "UNet.mlpackage", "a Mac", "CPU_AND_NE")
    assert [(one.output, one.operator, one.preferred, one.cost) for one in plan.operations] == [
        ("a", "conv", "neural_engine", 0.9),
        ("b", "gather", "cpu", 0.1),
        ("c", "const", "unknown", None),
    ]
    assert plan.operations[0].supported == ("cpu", "neural_engine")
    assert plan.off_engine() == {"gather": 1}
    path = tmp_path / "plan.json"
    plan.write(path)
    assert read_plan(path) == plan


def test_a_plan_of_another_program_is_refused(tiny_bundle: Bundle) -> None:
    program = load_program(tiny_bundle.package("unet"))
    plan = plan_from(fake_plan(), "Other.mlpackage", "a Mac", "CPU_AND_NE")
    with pytest.raises(ArtifactError, match="no cost for any operation of UNet"):
        plan.shares([program])


def test_files_that_are_no_plan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"kind": "bench"}')
    with pytest.raises(ArtifactError, match=r"is not a compute plan at kind: .* found 'bench'; record one on a Mac"):
        read_plan(path)
    with pytest.raises(ArtifactError, match=r"absent\.json' doesn't exist: expected a compute plan"):
        read_plan(tmp_path / "absent.json")
    assert ComputePlan.model_fields.keys() >= {"package", "machine", "operations"}


def test_off_a_mac_there_is_no_plan_to_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(UnavailableError, match="needs macOS and this is Linux"):
        record_plan(tmp_path / "decoder.mlpackage", "here")
