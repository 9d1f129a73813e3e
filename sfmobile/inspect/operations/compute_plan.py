"""Core ML's own plan of a compiled model: which unit it prefers for each operation, and its relative cost.

`MLComputePlan` exists from macOS 14.4 and iOS 17.4 on and needs the model compiled for the machine at hand. What it
says is kept as JSON, so that it can be taken to any other machine.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import StrictModel, read_model, write_json
from sfmobile.inspect.operations.blocks import assign_blocks
from sfmobile.mlpackage.graph import Graph

if TYPE_CHECKING:
    from sfmobile.mlpackage.program import Program

PLAN_VERSION: Final = 1
Unit = Literal["neural_engine", "gpu", "cpu", "unknown"]
_UNITS: dict[str, Unit] = {
    "MLNeuralEngineComputeDevice": "neural_engine",
    "MLGPUComputeDevice": "gpu",
    "MLCPUComputeDevice": "cpu",
}


class PlannedOperation(StrictModel):
    """One operation, by the name of its first output. cost: relative, of the whole model's 1; null where unknown."""

    output: str
    operator: str
    preferred: Unit
    supported: tuple[Unit, ...] = ()
    cost: float | None = Field(default=None, ge=0, le=1)


class ComputePlan(StrictModel):
    """The plan of one package on one machine."""

    kind: Literal["compute_plan"] = "compute_plan"
    version: Literal[1] = PLAN_VERSION
    package: str
    machine: str
    compute_unit: str
    operations: tuple[PlannedOperation, ...]

    def off_engine(self) -> dict[str, int]:
        """Operators that are preferred elsewhere than on the Neural Engine, and how often; constants have no unit."""
        return dict(Counter(one.operator for one in self.operations if one.preferred in ("gpu", "cpu")).most_common())

    def shares(self, programs: Sequence[Program]) -> dict[str, float]:
        """Share of the cost of each block of a component's programs (one, or its chunks).

        Raises `ArtifactError` if the plan names no operation of them, or gives none a cost.
        """
        owners: dict[str, str] = {}
        for program in programs:
            blocks = assign_blocks(Graph(program))
            for operation in program.operations:
                owners.update(dict.fromkeys(operation.makes(), blocks[operation.position]))
        costs: dict[str, float] = {}
        for one in self.operations:
            if one.output in owners and one.cost is not None:
                costs[owners[one.output]] = costs.get(owners[one.output], 0.0) + one.cost
        total = sum(costs.values())
        if total <= 0:
            raise ArtifactError(
                f"The compute plan of '{self.package}' has no cost for any operation of "
                f"{', '.join(program.package.name for program in programs)}; record it from this package."
            )
        return {block: cost / total for block, cost in costs.items()}

    def write(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all. Raises as `files.atomic_write` does."""
        write_json(path, self)


def read_plan(path: Path) -> ComputePlan:
    """Read a plan. Raises `ArtifactError` if it is none."""
    mend = "record one on a Mac with `sfmobile inspect PACKAGE --record-plan FILE`"
    return read_model(path, ComputePlan, "a compute plan", mend, version=PLAN_VERSION)


def record_plan(package: Path, machine: str, compute_unit: str = "CPU_AND_NE") -> ComputePlan:
    """Ask Core ML for its plan of `package` (macOS 14.4 or later). Raises `UnavailableError` elsewhere."""
    mend = "record it on a Mac with macOS 14.4 or later, and pass the file with --compute-plan"
    if platform.system() != "Darwin":
        raise UnavailableError(f"Core ML's compute plan needs macOS and this is {platform.system()}; {mend}.")
    try:
        import coremltools as ct
        from coremltools.models.compute_plan import MLComputePlan

        unit = ct.ComputeUnit[compute_unit]
        model = ct.models.MLModel(str(package), compute_units=unit)
        plan = MLComputePlan.load_from_path(path=model.get_compiled_model_path(), compute_units=unit)
    except (ImportError, NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise UnavailableError(f"Core ML gives no compute plan of '{package}' ({error}); {mend}.") from error
    return plan_from(plan, package.name, machine, compute_unit)


def plan_from(plan: Any, package: str, machine: str, compute_unit: str) -> ComputePlan:
    """The record of a `MLComputePlan` of coremltools, main function only."""
    operations = []
    for operation in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if not operation.outputs:
            continue
        operations.append(
            PlannedOperation(
                output=operation.outputs[0].name,
                # Core ML names operators with their opset: "ios17.conv".
                operator=operation.operator_name.rpartition(".")[2],
                preferred="unknown" if usage is None else _unit(usage.preferred_compute_device),
                supported=() if usage is None else tuple(_unit(one) for one in usage.supported_compute_devices),
                cost=None if cost is None else cost.weight,
            )
        )
    return ComputePlan(package=package, machine=machine, compute_unit=compute_unit, operations=tuple(operations))


def _unit(device: object) -> Unit:
    return _UNITS.get(type(device).__name__, "unknown")
