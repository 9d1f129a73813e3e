"""A torch network to a MIL program: torch.export on shapes alone, coremltools' frontend, and the passes that matter.

Nothing is computed: weights stay where they are (memory-mapped files), activations have shapes only. Weights and
inputs are float16 throughout, so the program is too and needs no casting pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.errors import SfmobileError
from sfmobile.export import coremltools_names as names
from sfmobile.export.quiet import quiet
from sfmobile.mlpackage.names import constant_name, origin

if TYPE_CHECKING:
    from coremltools import target as CoreMLTarget
    from torch.export import ExportedProgram
    from torch.fx import Node

    from sfmobile.bundle.choices import Target
    from sfmobile.export.coremltools_names import Operation, Program

# Compositions of torch that coremltools converts as they are; of all that our networks use.
TAKEN_WHOLE = frozenset(
    {"aten.conv2d.default", "aten.pad.default", "aten.reshape.default", "aten.upsample_nearest2d.vec"}
)
TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "int32": torch.int32}

# Of coremltools 9.0's ~112 passes those that change our graphs; a test compares with the whole pipeline.
PASSES = (
    "common::dead_code_elimination",
    "common::cast_optimization",
    "common::const_elimination",
    "common::fuse_transpose_matmul",
    "common::dead_code_elimination",
    "mil_backend::sanitize_name_strings",
    "common::dedup_op_and_var_names",
    "common::topological_reorder",
)


class LoweringError(SfmobileError):
    """The converter gave a program that breaks one of our guarantees: a mistake in sfmobile or a new coremltools."""

    exit_code = 3


def trace(net: nn.Module, inputs: Sequence[TensorRecord]) -> ExportedProgram:
    """`net` as an ExportedProgram of ATen operations, its norms and attention replaced by the operators of `torch_ops`.

    `net` belongs to the export: its modules are changed. Parameters may be memory-mapped; no value of them is read.
    """
    from sfmobile.export.torch_ops import replace_modules

    replace_modules(net)
    arguments = example_inputs(inputs)
    with quiet(), torch.no_grad():
        exported: ExportedProgram = torch.export.export(net.eval(), arguments, strict=False)
        decompose = any(map(_to_be_decomposed, exported.graph.nodes))
        exported = exported.run_decompositions({}) if decompose else _inferring(exported)
    return exported


def _to_be_decomposed(node: Node) -> bool:
    """Whether an operation is one of torch's compositions, other than those that coremltools takes as they are."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (
        str(target) not in TAKEN_WHOLE and target.has_kernel_for_dispatch_key(composite)
    )


def _inferring(exported: ExportedProgram) -> ExportedProgram:
    """A program that torch wrote for training as one of its ATen dialect, whose rules the constructor looks after.

    What `run_decompositions` gives is that too, but it traces every operation once more, in half of the whole time.
    """
    return type(exported)(
        root=exported.graph_module,
        graph=exported.graph,
        graph_signature=exported.graph_signature,
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=exported.module_call_graph,
        example_inputs=exported.example_inputs,
        constants=exported.constants,
    )


def example_inputs(inputs: Sequence[TensorRecord]) -> tuple[torch.Tensor, ...]:
    """Zeros of the inputs' shapes and dtypes."""
    return tuple(torch.zeros(record.shape, dtype=TORCH_DTYPES[record.dtype]) for record in inputs)


def lower(
    exported: ExportedProgram, inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord], target: Target
) -> Program:
    """The MIL program of a traced network, for `target`, with named float16 (and int32) inputs and outputs.

    Operations are named by the module they come from, weights by their state-dict key with underscores.
    Raises `LoweringError` if anything in the program is not float16.
    """
    with quiet():
        import coremltools as ct

        from sfmobile.export.mil_ops import LOWERINGS

        mark_traced(exported)
        with names.torch_lowerings(LOWERINGS), names.without_progress_bars(), names.without_printed_programs():
            program = ct.convert(
                exported,
                source="pytorch",
                convert_to="milinternal",
                inputs=[
                    ct.TensorType(name=record.name, shape=record.shape, dtype=np.dtype(record.dtype).type)
                    for record in inputs
                ],
                outputs=[ct.TensorType(name=record.name, dtype=np.dtype(record.dtype).type) for record in outputs],
                minimum_deployment_target=coreml_target(target),
                # The graph is float16 already: no casting pass, no fp32 islands.
                compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.EMPTY,
            )
        rename_operations(program, exported)
        passes = names.PASS_REGISTRY.load()
        for name in PASSES:
            passes[name](program)
    check_float16(program)
    return program


def coreml_target(target: Target) -> CoreMLTarget:
    """coremltools' own constant for `target`."""
    import coremltools as ct

    return {"ios16": ct.target.iOS16, "ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[target]


def weight_names(exported: ExportedProgram) -> dict[str, str]:
    """State-dict key of each constant, by the constant's name in the program `lower` makes."""
    return {constant_name(key): key for key in exported.graph_signature.inputs_to_parameters.values()}


TRACED = "traced_"


def mark_traced(exported: ExportedProgram) -> None:
    """Give traced operations names that coremltools never makes up itself.

    It numbers what it adds ("mul_3") with counters of the process, so that an addition could bear the name of a traced
    operation elsewhere in the network, and another one in the next export of the same process.
    """
    outputs = {spec.arg.name for spec in exported.graph_signature.output_specs}
    for node in exported.graph.nodes:
        if node.op == "call_function" and node.name not in outputs and not node.name.startswith(TRACED):
            node._rename(f"{TRACED}{node.name}")


def rename_operations(program: Program, exported: ExportedProgram) -> None:
    """Name constants by their state-dict key and operations by their module, for people who read reports.

    "conv2d_17" becomes "down_blocks_0_resnets_0_conv1"; later operations of one module keep a suffix.
    """
    signature = exported.graph_signature
    names = {
        argument: constant_name(key)
        for argument, key in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items()
    }
    for node in exported.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack:
            path = list(stack.values())[-1][0].removeprefix("L__self___")
            names[node.name] = constant_name(path) if path else node.name.removeprefix(TRACED)
    function = program.functions["main"]
    fixed = {variable.name for variable in (*function.inputs.values(), *function.outputs)}
    taken: set[str] = set(fixed)
    added: list[Operation] = []
    for operation in function.operations:
        stem = origin(operation.name, names)
        if stem is None:
            added.append(operation)
            continue
        # What coremltools added stands before the traced operation that it was added for.
        for earlier in added:
            _rename(earlier, _free_name(earlier, names[stem], f"_{earlier.op_type}", taken), fixed)
        added.clear()
        _rename(operation, _free_name(operation, names[stem], operation.name[len(stem) :], taken), fixed)


def _rename(operation: Operation, name: str, fixed: set[str]) -> None:
    """Name an operation and its results, but not the program's own inputs and outputs."""
    operation.name = name
    for index, variable in enumerate(operation.outputs):
        if variable.name not in fixed:
            variable.name = name if len(operation.outputs) == 1 else f"{name}_{index}"


def _free_name(operation: Operation, module: str, suffix: str, taken: set[str]) -> str:
    kind = "" if operation.op_type in ("const", "conv") else f"_{operation.op_type}"
    name = base = f"{module}{suffix}" if operation.op_type == "const" else f"{module}{kind}"
    count = 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def check_float16(program: Program) -> None:
    """Raise `LoweringError` naming the first operation whose result is a wide float."""
    types = names.TYPES.load()
    for operation in program.functions["main"].operations:
        if operation.op_type == "const":
            continue
        for variable in operation.outputs:
            if variable.dtype in (types.fp32, types.fp64):
                raise LoweringError(
                    f"Operation '{operation.name}' ({operation.op_type}) was converted to "
                    f"{types.builtin_to_string(variable.dtype)}, expected float16 throughout; use a coremltools 9 "
                    "release this sfmobile was tested with."
                )
