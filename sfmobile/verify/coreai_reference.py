"""Apple's Core AI runtime on the exported programs: the reference that shares no operator with us.

The programs are bridged operation by operation, palettes undecoded, and computed in fp32 by Apple's own kernels, beside
the `mil` runtime. What is left between the two is the order of float32 sums. It proves the evaluator and the decoding
of weights, not the program: both are given the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bench.verify_report import Agreement, OperationDivergence, SampleAgreement
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UnavailableError
from sfmobile.observer import Observer
from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.asset import trace
from sfmobile.runtime.coreai.runtime import CoreAIRuntime
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.verify.divergence import component_program
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.signal import agreement

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.mlpackage.program import Program
    from sfmobile.runtime.mil.evaluate import OpResult
    from sfmobile.runtime.protocol import Arrays
    from sfmobile.verify.recording import Call

# Two orders of float32 sums: the built-in model agrees at 117 dB and more, full-size blocks at 125.
OPERATORS_GATE_DB = 110.0
# Apple's kernels on Linux are slow: one call of the trajectory, and one input that excites what it doesn't.
CALLS = 1
EXCITATIONS = 1


@dataclass(frozen=True)
class OperatorsAgreement:
    """One function of a component on `mil` and on Apple's runtime, both in fp32.

    function: its name where the component has several, else empty. fault: where the two part, if they do.
    """

    component: ComponentName
    function: str
    samples: tuple[SampleAgreement, ...]
    fault: OperationDivergence | None = None

    @property
    def name(self) -> str:
        """E.g. "unet" or "unet (batch1)"."""
        return f"{self.component} ({self.function})" if self.function else self.component

    @property
    def worst(self) -> SampleAgreement:
        """The input on which they are furthest apart."""
        return min(self.samples, key=lambda sample: sample.agreement.closeness)

    @property
    def passed(self) -> bool:
        """Whether they agree up to float32 rounding on every input."""
        return self.worst.agreement.reaches(OPERATORS_GATE_DB)


def why_not(bundle: Bundle) -> str | None:
    """Why Apple's runtime is no reference for `bundle` here, or None if it is one: a clause."""
    if any(record.format != "mlprogram" for record in bundle.manifest.components.values()):
        return "it executes what ML Programs say, and this bundle holds other files"
    try:
        library.require()
    except UnavailableError as error:
        return str(error).rstrip(".")
    return None


def compare_coreai(
    bundle: Bundle, calls: Sequence[Call] = (), observer: Observer | None = None
) -> list[OperatorsAgreement]:
    """Every component of `bundle`, each of its functions: on both runtimes, fed the same.

    calls: of the real trajectory, of all components, of which the first of each is taken; inputs that excite all of
    the component come beside them. Raises `UnavailableError` where Apple's package isn't, naming how to get it, and
    for an operation without a counterpart.
    """
    library.require()
    observer = observer or Observer()
    found: list[OperatorsAgreement] = []
    for name, record in bundle.manifest.components.items():
        functions = [function.function for function in record.all_functions()]
        for function in functions:
            one = _with_function(bundle, name, function)
            own = [call for call in calls if call.component == name] if function == record.function else []
            inputs: list[tuple[str, Arrays]] = [(call.label, call.inputs) for call in own[:CALLS]]
            exciting = exciting_inputs(one.manifest, name, own)[:EXCITATIONS]
            inputs += [(f"excitation {number + 1}", arrays) for number, arrays in enumerate(exciting)]
            label = function if len(functions) > 1 else ""
            observer.start(f"Apple's operators: {name} {label}".rstrip(), len(inputs))
            found.append(_compare(one, name, label, inputs, observer))
    return found


def _with_function(bundle: Bundle, name: ComponentName, function: str) -> Bundle:
    """The bundle with another function of one component as the one to run."""
    components = dict(bundle.manifest.components)
    components[name] = components[name].selected(function)
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"components": components}))


def _compare(
    bundle: Bundle, name: ComponentName, function: str, inputs: Sequence[tuple[str, Arrays]], observer: Observer
) -> OperatorsAgreement:
    samples: list[SampleAgreement] = []
    with MilRuntime(bundle).load(name) as ours, CoreAIRuntime(bundle).load(name) as apples:
        for label, arrays in inputs:
            expected, found = apples.predict(arrays), ours.predict(arrays)
            compared = [agreement(expected[output], found[output]) for output in expected]
            worst = min(compared, key=lambda one: one.closeness)
            samples.append(SampleAgreement(input=label, agreement=worst))
            observer.advance(1)
    agreed = OperatorsAgreement(name, function, tuple(samples))
    if agreed.passed:
        return agreed
    arrays = dict(inputs)[agreed.worst.input]
    return OperatorsAgreement(name, function, agreed.samples, operators_fault(component_program(bundle, name), arrays))


def operators_fault(program: Program, inputs: Arrays, gate_db: float = OPERATORS_GATE_DB) -> OperationDivergence | None:
    """The first operation at which the two part although they agreed on all that it computes with; None if none is.

    Both run once more, in fp32, keeping every result; Apple's are all in memory.
    """
    from sfmobile.runtime.mil.evaluate import Evaluator

    expected = trace(program, {name: np.asarray(value) for name, value in inputs.items()}, "fp32")
    compared: dict[str, Agreement] = {}

    def compare(result: OpResult) -> None:
        if result.value.dtype.kind == "f":
            compared[result.output] = agreement(expected[result.output], result.value)

    Evaluator(program, fuse=False, lean=True).trace(dict(inputs), compare)
    for place, operation in enumerate(program.operations):
        worst = min(_of(compared, operation.makes()), key=lambda one: one.closeness, default=None)
        if worst is None or worst.reaches(gate_db):
            continue
        if all(one.reaches(gate_db) for one in _of(compared, operation.reads())):
            return OperationDivergence(
                position=place,
                operations=len(program.operations),
                op=operation.kind,
                name=operation.name,
                agreement=worst,
                reference="the same operation on Apple's runtime",
            )
    return None


def _of(compared: dict[str, Agreement], names: Sequence[str] | Iterator[str]) -> list[Agreement]:
    return [compared[name] for name in names if name in compared]
