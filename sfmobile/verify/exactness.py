"""Is it the network it claims to be? The packages in fp32, against our networks with the very weights they store.

No loss stands between the two, so the gate is the same whatever the bits, and high: what is left is the order in which
float32 sums run, and constants that the program holds in float16 (an epsilon, a scale). The stored weights themselves
are compared with the checkpoint's, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bench.report import (
    Agreement,
    ExactAgreement,
    Exactness,
    OperationDivergence,
    SampleAgreement,
    StoredWeightsRecord,
)
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe, compressible
from sfmobile.observer import Observer
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.verify.constants import constant_faults
from sfmobile.verify.divergence import component_program, find_divergence
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.recording import Call
from sfmobile.verify.signal import agreement
from sfmobile.verify.stored import StoredRuntime
from sfmobile.verify.weights import StoredWeights, compare_weights

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentRecord
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.protocol import Arrays, LoadedComponent
    from sfmobile.verify.verification import Reference

# The built-in model reaches 100 dB and more, full-size Stable Diffusion 1.5 104; a fault that no weight shows (an
# operand taken from elsewhere, another activation) leaves far less.
EXACT_GATE_DB = 95.0
# Of the trajectory, beside the inputs that excite what it doesn't: the first calls of each component.
TRAJECTORY_CALLS = 2


@dataclass(frozen=True)
class ExactCall:
    """One input: the call with its reference output, and how close the package came to it."""

    call: Call
    agreement: Agreement


def prove_exact(bundle: Bundle, checkpoint: Checkpoint, reference: Reference, observer: Observer) -> Exactness:
    """Every component of ML Programs against its network with the weights it stores, and the manifest's constants."""
    components: dict[ComponentName, ExactAgreement] = {}
    for name in bundle.manifest.components:
        components[name] = prove_component(bundle, checkpoint, name, reference.of(name), observer)
    return Exactness(components=components, constants=tuple(constant_faults(bundle, checkpoint)))


def prove_component(
    bundle: Bundle,
    checkpoint: Checkpoint,
    name: ComponentName,
    calls: Sequence[Call],
    observer: Observer,
) -> ExactAgreement:
    """One component: its stored weights, then its programs on the first of the trajectory's `calls` and on more."""
    record = bundle.manifest.components[name]
    program = component_program(bundle, name)
    source = checkpoint.state_dict(name)
    observer.start(f"Stored weights: {name}", sum(tensor.numel() for tensor in source.values()))
    shapes = {key: tuple(tensor.shape) for key, tensor in source.items()}
    weights = compare_weights(program, source, lambda key: recorded_storage(record, key, shapes[key]), observer.advance)
    stored = _record(weights)
    if len(weights.values) < len(source):
        # Its network can't be built from what is stored.
        return ExactAgreement(weights=stored, worst=None, gate_db=EXACT_GATE_DB, samples=(), passed=False)
    inputs: list[tuple[str, Arrays]] = [(call.label, call.inputs) for call in calls[:TRAJECTORY_CALLS]]
    inputs += [(f"excitation {n + 1}", found) for n, found in enumerate(exciting_inputs(bundle.manifest, name, calls))]
    observer.start(f"Exact: {name}", len(inputs))
    with (
        StoredRuntime(bundle, checkpoint, lambda _: weights.values).load(name) as network,
        MilRuntime(bundle).load(name) as package,
    ):
        found = compare_exact(name, package, network, inputs, observer.advance)
        worst = min(found, key=lambda one: one.agreement.closeness)
        reached = worst.agreement.reaches(EXACT_GATE_DB)
        fault: OperationDivergence | None = None
        if not reached:
            fault = find_divergence(program, network.network, worst.call, "fp32", EXACT_GATE_DB)
    return ExactAgreement(
        weights=stored,
        worst=worst.agreement,
        gate_db=EXACT_GATE_DB,
        samples=tuple(SampleAgreement(input=one.call.label, agreement=one.agreement) for one in found),
        first_divergence=fault,
        passed=reached and not stored.faults,
    )


def recorded_storage(record: ComponentRecord, parameter: str, shape: tuple[int, ...]) -> LayerRecipe | None:
    """How the manifest says that a parameter is stored; None where a recipe decides layer by layer."""
    if record.compression is None or not compressible(parameter, shape):
        return LayerRecipe(bits=FULL_BITS)
    if record.compression.recipe_sha256 is not None:
        return None
    return LayerRecipe(bits=record.compression.bits, group_size=record.compression.group_size)


def _record(weights: StoredWeights) -> StoredWeightsRecord:
    return StoredWeightsRecord(
        parameters=weights.compared,
        compressed=weights.compressed,
        worst_parameter=None if weights.worst is None else weights.worst[0],
        worst_error=None if weights.worst is None else weights.worst[1],
        faults=tuple(str(fault) for fault in weights.faults),
    )


def compare_exact(
    name: ComponentName,
    package: LoadedComponent,
    reference: LoadedComponent,
    inputs: Sequence[tuple[str, Arrays]],
    advance: Callable[[int], None] = lambda calls: None,
) -> list[ExactCall]:
    """Feed both the labelled `inputs`; the worst of each call's outputs."""
    found: list[ExactCall] = []
    for label, arrays in inputs:
        expected = reference.predict(arrays)
        given = {key: np.asarray(value) for key, value in arrays.items()}
        outputs = package.predict(given)
        worst = min((agreement(expected[key], outputs[key]) for key in expected), key=lambda one: one.closeness)
        found.append(ExactCall(Call(name, label, given, expected), worst))
        advance(1)
    return found
