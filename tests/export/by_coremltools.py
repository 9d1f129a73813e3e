"""The oracle of `filling`: a program with its weights, palettized by coremltools' builder and written by its writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.load import load
from coremltools.converters.mil.mil import Program, types
from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with
from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

from sfmobile.compress.kmeans import pack_bits
from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.export.lowering import coreml_target
from sfmobile.mlpackage.package import new_weight_file, write_model


def write_by_coremltools(program: Program, path: Path, target: str, layers: Mapping[str, LayerRecipe]) -> None:
    """Write the package `path`; `layers` by constant name, `program` is changed."""
    function = program.functions["main"]
    scope = ScopeInfo(source=ScopeSource.COREMLTOOLS_GRAPH_PASS, data=["test"])
    with function, mb.scope(scope):
        for constant in list(function.operations):
            if constant.op_type == "const" and constant.name in layers:
                _palettize(constant, layers[constant.name])
    model = load(
        program,
        weights_dir=str(new_weight_file(path).parent),
        specification_version=coreml_target(target).value,  # type: ignore[arg-type]
        convert_to="mlprogram",
        convert_from="pytorch",
    )
    write_model(model, path)


def _palettize(constant, layer: LayerRecipe) -> None:
    made = palettize_weight(constant.outputs[0].val, layer)
    name = f"{constant.name}_palettized"
    if is_current_opset_version_compatible_with(ct.target.iOS18):
        unit = types.nptype_from_builtin(types.string_to_builtin(f"uint{made.bits}"))
        ones = (1,) * (made.indices.ndim - 1)
        dense = mb.constexpr_lut_to_dense(
            indices=made.indices.view(unit),
            lut=made.luts.reshape((len(made.luts), *ones, 1 << made.bits, 1)),
            before_op=constant,
            name=name,
        )
    else:
        dense = mb.constexpr_lut_to_dense(
            indices=pack_bits(made.indices.reshape(-1), made.bits),
            lut=made.luts[0],
            shape=np.array(made.indices.shape, np.uint32),
            before_op=constant,
            name=name,
        )
    block = constant.enclosing_block
    block.replace_uses_of_var_after_op(
        anchor_op=constant, old_var=constant.outputs[0], new_var=dense, no_check_var_types=True
    )
    block.remove_ops([constant])
