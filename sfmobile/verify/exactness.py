"""Is it the network it claims to be? The packages in fp32, against our networks with the very weights they store.

No loss stands between the two, so the gate is the same whatever the bits, and high: what is left is the order in which
float32 sums run, and constants that the program holds in float16 (an epsilon, a scale). The stored weights themselves
are compared with the checkpoint's, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bench.verify_report import (
    Agreement,
    ExactAgreement,
    OperationDivergence,
    SampleAgreement,
    StoredWeightsRecord,
)
from sfmobile.bundle.directory import Bundle
from sfmobile.compress.recipe import FULL_BITS, LayerRecipe, Recipe, compressible
from sfmobile.observer import Observer
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.verify.attributes import attribute_faults
from sfmobile.verify.divergence import component_program, find_divergence
from sfmobile.verify.excitation import COUNT, exciting_inputs
from sfmobile.verify.reach import Reach
from sfmobile.verify.recording import Call
from sfmobile.verify.signal import agreement
from sfmobile.verify.stored import StoredRuntime
from sfmobile.verify.weights import Known, StoredWeights, compare_weights

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.manifest import Manifest
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.mlpackage.program import Program
    from sfmobile.runtime.protocol import Arrays, LoadedComponent, Runtime

# The built-in model reaches 100 dB and more, full-size Stable Diffusion 1.5 104; a fault that no weight shows (an
# operand taken from elsewhere, another activation) leaves far less.
EXACT_GATE_DB = 95.0


# What a run leaves parts of at rest: tokens, and rows of one timestep. Networks of images it doesn't.
AT_REST = ("per_prompt", "per_step")


@dataclass(frozen=True)
class Thoroughness:
    """How much is tried of each component.

    calls: of the trajectory. excitations: inputs that excite what it does and what it doesn't; without calls those of
    the trajectory, where they do that. reach: whether the operations that these leave at rest are looked for, which
    runs the program once more, operation by operation.
    """

    calls: int = 2
    excitations: int = COUNT
    reach: bool = True


THOROUGH = Thoroughness()
QUICK = Thoroughness(calls=0, excitations=1, reach=False)


@dataclass(frozen=True)
class ExactCall:
    """One input: the call with its reference output, and how close the package came to it."""

    call: Call
    agreement: Agreement


@dataclass(frozen=True)
class Looked:
    """What a look at a component says, nothing run: its program, its weights, attributes that are wrong."""

    program: Program
    weights: StoredWeights
    attributes: tuple[str, ...]


def look(
    bundle: Bundle, checkpoint: Checkpoint, name: ComponentName, observer: Observer, known: Known | None = None
) -> Looked:
    """The stored weights of one component against the checkpoint's, and its operations' attributes.

    known: of looks at other functions of the same package.
    """
    program = component_program(bundle, name)
    source = checkpoint.state_dict(name)
    observer.start(f"Stored weights: {name}", sum(tensor.numel() for tensor in source.values()))
    shapes = {key: tuple(tensor.shape) for key, tensor in source.items()}
    storage = recorded_storage(bundle.manifest, name, shapes)
    weights = compare_weights(program, source, storage, observer.advance, known)
    return Looked(program, weights, tuple(attribute_faults(program, checkpoint.load(name, None))))


def prove_asset(bundle: Bundle, checkpoint: Checkpoint, name: ComponentName, observer: Observer) -> ExactAgreement:
    """The weights that a component's .aimodels store, one by one. Raises as `coreai_weights.asset_weights` does."""
    from sfmobile.runtime.chunks import part_records
    from sfmobile.verify.coreai_weights import asset_weights

    record = bundle.manifest.components[name]
    source = checkpoint.state_dict(name)
    observer.start(f"Stored weights: {name}", sum(tensor.numel() for tensor in source.values()))
    shapes = {key: tuple(tensor.shape) for key, tensor in source.items()}
    paths = [bundle.root / part.package for part in part_records(record)]
    weights = asset_weights(paths, source, recorded_storage(bundle.manifest, name, shapes), observer.advance)
    return ExactAgreement(
        weights=_record(weights),
        weights_alone=True,
        worst=None,
        gate_db=EXACT_GATE_DB,
        samples=(),
        passed=not weights.faults,
    )


def by_function(bundle: Bundle, name: ComponentName) -> Iterator[tuple[str, Bundle]]:
    """`bundle` for each function of a component: the one it runs under the component's own name, then the others.

    The others are named as in "unet (batch_1)".
    """
    record = bundle.manifest.components[name]
    yield name, bundle
    for other in record.functions:
        components = {**bundle.manifest.components, name: record.selected(other.function)}
        manifest = bundle.manifest.model_copy(update={"components": components})
        yield f"{name} ({other.function})", Bundle(bundle.root, manifest)


def prove_component(
    bundle: Bundle,
    checkpoint: Checkpoint,
    name: ComponentName,
    calls: Sequence[Call],
    observer: Observer,
    thoroughness: Thoroughness = THOROUGH,
    looked: Looked | None = None,
    package: Runtime | None = None,
) -> ExactAgreement:
    """One component: its stored weights, its attributes, then its programs on the first of the trajectory's `calls`
    and on inputs made to excite it.

    looked: where `look` was asked before. package: the mil runtime in fp32 on the bundle; opened anew without it.
    The network and the package are never in memory together.
    """
    looked = looked or look(bundle, checkpoint, name, observer)
    program, weights, attributes = looked.program, looked.weights, looked.attributes
    stored = _record(weights)
    if not weights.whole:
        # Its network can't be built from what is stored.
        return ExactAgreement(
            weights=stored, attributes=attributes, worst=None, gate_db=EXACT_GATE_DB, samples=(), passed=False
        )
    inputs = _tried(bundle.manifest, name, calls, thoroughness)
    observer.start(f"Exact: {name}", 2 * len(inputs) + thoroughness.reach)
    reference = StoredRuntime(bundle, checkpoint, lambda _: program)
    with reference.load(name) as network:
        expected = list(_answers(name, network, inputs, observer.advance))
    with (package or MilRuntime(bundle)).load(name) as loaded:
        found = [_compare(call, loaded, observer.advance) for call in expected]
    reach = Reach()
    if thoroughness.reach:
        Evaluator(program, fuse=False, lean=True).trace(expected[-1].inputs, reach.see)
        observer.advance(1)
    worst = min(found, key=lambda one: one.agreement.closeness)
    reached = worst.agreement.reaches(EXACT_GATE_DB)
    fault: OperationDivergence | None = None
    if not reached:
        with reference.load(name) as network:
            fault = find_divergence(program, network.network, worst.call, "fp32", EXACT_GATE_DB)
    return ExactAgreement(
        weights=stored,
        attributes=attributes,
        worst=worst.agreement,
        gate_db=EXACT_GATE_DB,
        samples=tuple(SampleAgreement(input=one.call.label, agreement=one.agreement) for one in found),
        operations=reach.operations if thoroughness.reach else None,
        unreached=tuple(reach.unreached()),
        first_divergence=fault,
        passed=reached and not stored.faults and not attributes,
    )


def _tried(
    manifest: Manifest, name: ComponentName, calls: Sequence[Call], thoroughness: Thoroughness
) -> list[tuple[str, Arrays]]:
    """The inputs that are tried, each with a label."""
    found: list[tuple[str, Arrays]] = [(call.label, call.inputs) for call in calls[: thoroughness.calls]]
    if not found and calls and manifest.components[name].runs not in AT_REST:
        # As good as an excitation, and the package's answer to it is asked for anyway.
        return [(call.label, call.inputs) for call in calls[: thoroughness.excitations]]
    excitations = exciting_inputs(manifest, name, calls)[: thoroughness.excitations]
    found += [(f"excitation {number}", arrays) for number, arrays in enumerate(excitations, start=1)]
    return found


def _answers(
    name: ComponentName,
    network: LoadedComponent,
    inputs: Sequence[tuple[str, Arrays]],
    advance: Callable[[int], None],
) -> Iterator[Call]:
    """What the network gives for the labelled `inputs`."""
    for label, arrays in inputs:
        outputs = {key: np.array(value) for key, value in network.predict(arrays).items()}
        advance(1)
        yield Call(name, label, {key: np.asarray(value) for key, value in arrays.items()}, outputs)


def _compare(call: Call, package: LoadedComponent, advance: Callable[[int], None]) -> ExactCall:
    """The worst of a call's outputs."""
    outputs = package.predict(call.inputs)
    advance(1)
    compared = (agreement(expected, outputs[key]) for key, expected in call.outputs.items())
    return ExactCall(call, min(compared, key=lambda one: one.closeness))


def recorded_storage(
    manifest: Manifest, name: ComponentName, shapes: Mapping[str, tuple[int, ...]]
) -> Callable[[str], LayerRecipe | None]:
    """How the manifest says that a parameter of a component is stored; None where it names a recipe that it lacks."""
    compression = manifest.components[name].compression
    content = manifest.options.get("compression")
    recipe: Recipe | None = None
    if compression is not None and compression.recipe_sha256 is None:
        recipe = Recipe.uniform(compression.bits, compression.group_size)
    elif isinstance(content, dict):
        recipe = Recipe.model_validate(content)

    def storage(parameter: str) -> LayerRecipe | None:
        if compression is None or not compressible(parameter, shapes[parameter]):
            return LayerRecipe(bits=FULL_BITS)
        return None if recipe is None else recipe.layer(name, parameter.removesuffix(".weight"))

    return storage


def _record(weights: StoredWeights) -> StoredWeightsRecord:
    return StoredWeightsRecord(
        parameters=weights.compared,
        compressed=weights.compressed,
        worst_parameter=None if weights.worst is None else weights.worst[0],
        worst_error=None if weights.worst is None else weights.worst[1],
        faults=tuple(str(fault) for fault in weights.faults),
    )
