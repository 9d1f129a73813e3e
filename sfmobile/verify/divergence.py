"""The first operation of an exported program at which an error appears.

A program's output is off, so some operation on the way to it is the first one that is: its output leaves its reference
while everything it is computed from hasn't. It is found by walking back from the output, always to an operand that is
off itself, until there is none. (Going forward instead and naming the first operation below the gate would blame
harmless ones: small differences of large numbers that later operations drown.)

The reference of an operation is
- where only the fp16 evaluation is off: the same operation in the fp32 evaluation of the same program. Every operation
  has one, so the walk ends at exactly the operation that rounding or overflow breaks;
- where the fp32 evaluation is off too (palettization, conversion, an altered package): the output of the torch module
  whose weight the operation reads. Weights keep their parameter's name in the program ("down_blocks.0.conv1.weight" is
  "down_blocks_0_conv1_weight"), so every convolution, embedding and normalisation has one. Operations without a weight
  are passed through: the fault lies in the operation named or between it and the ones it names as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bench.verify_report import Agreement, OperationDivergence
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.names import constant_name, origin
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName
    from sfmobile.mlpackage.program import Operation, Program
    from sfmobile.runtime.choices import Precision
    from sfmobile.runtime.mil.evaluate import OpResult
    from sfmobile.verify.recording import Call

# Of larger outputs only this many values are kept, at fixed random places: a full-size UNet has thousands of outputs.
SAMPLED_VALUES = 8192
# Module outputs compare with operations that carry the module's weight under this argument.
# A GroupNorm is an `instance_norm` between reshapes and a `batch_norm`, which holds its weight and gives its output.
WEIGHT_ARGUMENTS = {"conv": "weight", "linear": "weight", "gather": "x", "layer_norm": "gamma", "batch_norm": "gamma"}


def find_divergence(
    program: Program, network: nn.Module | None, call: Call, precision: Precision, gate_db: float
) -> OperationDivergence | None:
    """Where the evaluation of `program` at `precision` leaves its reference by more than `gate_db` allows.

    network: the torch reference of the program, fp32, or None if it isn't at hand; then only what the fp16 evaluation
    adds can be traced. call: an input and its reference output. Returns None if the output is within the gate, or if
    it can't be traced.
    """
    if precision == "fp16" and _within(program, call, "fp32", gate_db):
        references = trace_program(program, call, "fp32")
        origin = "the same operation in fp32"
        return _walk_back(program, call, precision, gate_db, references, lambda _: origin, None)
    if network is None:
        return None
    outputs = trace_modules(network, call)
    owners = weight_owners(program, network)
    references = {position: outputs[name] for position, name in owners.items() if name in outputs}
    weights = dict(network.named_parameters())

    def weight_psnr(operation: Operation) -> float | None:
        return _weight_psnr(program, operation, weights.get(f"{owners.get(operation.position)}.weight"))

    return _walk_back(
        program, call, precision, gate_db, references, lambda position: f"torch module {owners[position]}", weight_psnr
    )


def component_program(bundle: Bundle, name: ComponentName) -> Program:
    """The whole program of a component; chunks, which were cut from one, are joined again and renumbered."""
    from sfmobile.mlpackage.program import load_program
    from sfmobile.runtime.chunks import part_records

    record = bundle.manifest.components[name]
    parts = [load_program(bundle.root / part.package, part.function) for part in part_records(record)]
    if len(parts) == 1:
        return parts[0]
    types = {input_name: type_ for part in parts for input_name, type_ in part.inputs.items()}
    whole = replace(
        parts[0],
        package=bundle.package(name),
        inputs={tensor.name: types[tensor.name] for tensor in record.inputs},
        outputs=tuple(tensor.name for tensor in record.outputs),
        constants={key: constant for part in parts for key, constant in part.constants.items()},
    )
    operations = (operation for part in parts for operation in part.operations)
    whole.operations = [replace(operation, position=position) for position, operation in enumerate(operations)]
    return whole


@dataclass(frozen=True)
class _Status:
    """What one operation's output is against its reference."""

    agreement: Agreement
    good: bool


def _walk_back(
    program: Program,
    call: Call,
    precision: Precision,
    gate_db: float,
    references: Mapping[int, Sample],
    describe: Callable[[int], str],
    weight_psnr: Callable[[Operation], float | None] | None,
) -> OperationDivergence | None:
    found = trace_program(program, call, precision)
    statuses = {
        position: _Status(compared, compared.reaches(gate_db))
        for position, reference in references.items()
        if position in found and (compared := found[position].against(reference)) is not None
    }
    makers = Graph(program).makers
    output, worst = _worst_output(program, call, precision)
    if worst.reaches(gate_db) or output not in makers:
        return None
    current = makers[output]
    status, origin = worst, f"the reference's output '{output}'"
    while True:
        before = list(_nearest(current, makers, statuses))
        bad = [operation for operation in before if not statuses[operation.position].good]
        if not bad:
            break
        current = min(bad, key=lambda operation: statuses[operation.position].agreement.closeness)
        status, origin = statuses[current.position].agreement, describe(current.position)
    names = ", ".join(f"{operation.kind} '{operation.name}'" for operation in before[:3])
    return OperationDivergence(
        position=program.operations.index(current),
        operations=len(program.operations),
        op=current.kind,
        name=current.name,
        agreement=status,
        reference=origin,
        previous=names or None,
        weight_psnr_db=None if weight_psnr is None else weight_psnr(current),
    )


def _nearest(
    operation: Operation, makers: Mapping[str, Operation], statuses: Mapping[int, _Status]
) -> Iterator[Operation]:
    """The operations with a reference that `operation` is computed from, through those without one."""
    seen: set[int] = set()
    waiting = [operation]
    while waiting:
        for name in waiting.pop().reads():
            maker = makers.get(name)
            if maker is None or maker.position in seen:
                continue
            seen.add(maker.position)
            if maker.position in statuses:
                yield maker
            else:
                waiting.append(maker)


@dataclass(frozen=True)
class Sample:
    """Some values of an output at places that depend on its size alone, and how many of all are NaN or infinite."""

    size: int
    values: np.ndarray
    nonfinite: int

    @classmethod
    def of(cls, value: np.ndarray) -> Sample:
        """Sample an array of any shape, in row-major order."""
        flat = value.reshape(-1)
        places = _places(flat.size)
        kept = flat if places is None else flat[places]
        return cls(flat.size, np.array(kept, np.float32), int(flat.size - np.count_nonzero(np.isfinite(flat))))

    def against(self, reference: Sample) -> Agreement | None:
        """Agreement with the reference's sample; None if they aren't the same values of the same thing."""
        if self.size != reference.size:
            return None
        found = agreement(reference.values, self.values)
        if self.nonfinite and not found.nonfinite:
            # Broken only where the sample doesn't look.
            return found.model_copy(update={"nonfinite": self.nonfinite, "psnr_db": None, "identical": False})
        return found


def _places(size: int) -> np.ndarray | None:
    if size <= SAMPLED_VALUES:
        return None
    return np.random.default_rng(size).integers(0, size, SAMPLED_VALUES)


def trace_program(program: Program, call: Call, precision: Precision) -> dict[int, Sample]:
    """A sample of the first output of every operation with a float result, by position."""
    from sfmobile.runtime.mil.evaluate import Evaluator

    samples: dict[int, Sample] = {}

    def keep(result: OpResult) -> None:
        if result.value.dtype.kind == "f" and result.position not in samples:
            samples[result.position] = Sample.of(result.value)

    Evaluator(program, precision, fuse=False, lean=True).trace(call.inputs, keep)
    return samples


def trace_modules(network: nn.Module, call: Call) -> dict[str, Sample]:
    """A sample of the output of every module of `network` that holds a weight, by name.

    A module that runs more than once keeps its first output.
    """
    import torch

    samples: dict[str, Sample] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...], Tensor], None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: Tensor) -> None:
            samples.setdefault(name, Sample.of(output.detach().contiguous().numpy()))

        return hook

    modules = [(name, module) for name, module in network.named_modules() if "weight" in module._parameters]
    handles = [module.register_forward_hook(keep(name)) for name, module in modules]
    try:
        with torch.inference_mode():
            network(**{name: torch.from_numpy(value) for name, value in call.inputs.items()})
    finally:
        for handle in handles:
            handle.remove()
    return samples


def weight_owners(program: Program, network: nn.Module) -> dict[int, str]:
    """Position of each operation that reads a module's weight, and the module's name."""
    modules = {
        constant_name(name): name.removesuffix(".weight")
        for name, _ in network.named_parameters()
        if name.endswith(".weight")
    }
    owners: dict[int, str] = {}
    for operation in program.operations:
        for item in operation.inputs.get(WEIGHT_ARGUMENTS.get(operation.kind, ""), ()):
            if isinstance(item, str) and item in program.constants:
                weight = origin(item, modules)
                if weight is not None:
                    owners[operation.position] = modules[weight]
    return owners


def _weight_psnr(program: Program, operation: Operation, parameter: Tensor | None) -> float | None:
    """How close the stored weight of an operation is to the parameter it was; None without one."""
    (item,) = operation.inputs.get(WEIGHT_ARGUMENTS.get(operation.kind, ""), (None,))
    if parameter is None or not isinstance(item, str):
        return None
    stored = program.constants[item].load()
    expected = parameter.detach().float().numpy()
    if isinstance(stored, str) or stored.size != expected.size:
        return None
    return agreement(expected.reshape(-1), np.asarray(stored, np.float32).reshape(-1)).psnr_db


def _worst_output(program: Program, call: Call, precision: Precision) -> tuple[str, Agreement]:
    """The output that is furthest from the reference, at `precision`."""
    from sfmobile.runtime.mil.evaluate import Evaluator

    results = Evaluator(program, precision, fuse=False, lean=True)(call.inputs)
    compared = {name: agreement(expected, results[name]) for name, expected in call.outputs.items()}
    return min(compared.items(), key=lambda item: item[1].closeness)


def _within(program: Program, call: Call, precision: Precision, gate_db: float) -> bool:
    return _worst_output(program, call, precision)[1].reaches(gate_db)
