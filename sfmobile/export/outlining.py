"""How an outline is made: a network traced and lowered with its weights left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sfmobile.bundle.manifest import TensorRecord
from sfmobile.export import coremltools_names as names
from sfmobile.export.lowering import LoweringError, coreml_target, lower, trace, weight_names
from sfmobile.export.outline import LEFT_OUT, Outline
from sfmobile.export.phases import ExportObserver
from sfmobile.export.quiet import quiet
from sfmobile.mlpackage.package import MAIN

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName, Target
    from sfmobile.export.coremltools_names import Program, Var


def leave_out_weights(net: nn.Module) -> nn.Module:
    """`net` with each parameter one zero of its dtype seen through its shape; it needn't have had any data."""
    zeros = {parameter.dtype: torch.zeros((), dtype=parameter.dtype) for parameter in net.parameters()}
    shapes = {key: zeros[one.dtype].expand(one.shape) for key, one in net.named_parameters()}
    net.load_state_dict(shapes, strict=False, assign=True)
    return net


def draw_outline(
    net: nn.Module,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
    target: Target,
    observer: ExportObserver | None = None,
    component: ComponentName | None = None,
) -> Outline:
    """The outline of `net`, which is left without weights and with its modules changed.

    Raises `LoweringError` if the program breaks a guarantee.
    """
    observer = observer or ExportObserver()
    observer.phase(component, "trace")
    exported = trace(leave_out_weights(net), inputs)
    observer.phase(component, "convert")
    program = lower(exported, inputs, outputs, target)
    keys = weight_names(exported)
    _check_untouched(program, keys, {key: tuple(value.shape) for key, value in exported.state_dict.items()})
    return Outline(serialized(program, target, {name: f"{LEFT_OUT}{key}" for name, key in keys.items()}))


def serialized(program: Program, target: Target, files: Mapping[str, str]) -> Any:
    """A program as the protobuf of a model: constants named in `files` as values of those, all others written in."""
    with quiet(), names.weights_by_name(files):
        return names.SERIALIZE.load()(
            program,
            weights_dir="",
            specification_version=coreml_target(target).value,
            convert_to="mlprogram",
            convert_from="pytorch",
        )


def _check_untouched(program: Program, keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `LoweringError` unless every weight stands in the program as it stands in the network."""
    found: set[str] = set()
    for operation in program.functions[MAIN].operations:
        if operation.op_type == "const" and operation.name in keys:
            variable: Var = operation.outputs[0]
            if variable.val.shape != shapes[keys[operation.name]] or any(variable.val.strides):
                raise LoweringError(
                    f"Weight '{keys[operation.name]}' was changed by the converter; use a coremltools 9 release this "
                    "sfmobile was tested with."
                )
            found.add(operation.name)
    missing = sorted(set(keys) - found)
    if missing:
        raise LoweringError(
            f"Weight '{keys[missing[0]]}' isn't in the converted program; use a coremltools 9 release this sfmobile "
            "was tested with."
        )
