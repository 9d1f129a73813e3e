from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types

from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.errors import ArtifactError
from sfmobile.export.lookup_tables import palettize_program
from tests.compress.test_palettize import weight

TARGETS = {"ios16": ct.target.iOS16, "ios18": ct.target.iOS18}


def program(target: str, weights: dict[str, np.ndarray]) -> Program:
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8, 8, 8), dtype=types.fp16)], opset_version=TARGETS[target])
    def prog(x):
        for name, value in weights.items():
            x = mb.conv(x=x, weight=mb.const(val=value, name=name), pad_type="same", name=f"{name}_conv")
            x = mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 8, 8, 8])
        return x

    return prog


def operations(prog: Program, kind: str) -> list:
    return [op for op in prog.functions["main"].operations if op.op_type == kind]


@pytest.mark.parametrize(
    ("target", "bits", "group_size"),
    [
        *(("ios16", bits, None) for bits in (1, 2, 4, 6, 8)),
        *(("ios18", bits, None) for bits in (1, 2, 3, 4, 6, 8)),
        *(("ios18", bits, 4) for bits in (1, 3, 6)),
    ],
)
def test_stored_form_decompresses_in_coremltools_to_the_palette(target: str, bits: int, group_size: int | None) -> None:
    layer = LayerRecipe(bits=bits, group_size=group_size)
    value = weight(3)
    prog = program(target, {"w": value})
    errors = palettize_program(prog, {"w": layer})
    (stored,) = operations(prog, "constexpr_lut_to_dense")
    expected = palettize_weight(value, layer)
    np.testing.assert_array_equal(stored.materialized_val_inference(), expected.dense())
    assert errors == {"w": expected.error}
    assert stored.outputs[0].child_ops[0].op_type == "conv"


def test_only_named_layers_change_and_sixteen_bits_stay() -> None:
    prog = program("ios16", {"a": weight(1), "b": weight(2), "c": weight(3)})
    done: list[int] = []
    errors = palettize_program(prog, {"a": LayerRecipe(bits=4), "b": LayerRecipe(bits=16)}, advance=done.append)
    assert set(errors) == {"a"} and done == [weight(1).size]
    constants = {op.name for op in operations(prog, "const")}
    assert {"b", "c"} <= constants and "a" not in constants


def test_many_layers_keep_their_own_weights_in_order() -> None:
    values = {f"w{index}": weight(index) for index in range(20)}
    prog = program("ios18", values)
    palettize_program(prog, {name: LayerRecipe(bits=8) for name in values})
    for op in operations(prog, "constexpr_lut_to_dense"):
        name = op.outputs[0].child_ops[0].name.removesuffix("_conv")
        assert np.abs(op.materialized_val_inference() - values[name]).max() < 0.1


def test_weight_that_is_not_finite_is_named() -> None:
    value = weight(0)
    value[3, 2, 1, 1] = np.nan
    with pytest.raises(ArtifactError, match="'down_conv' can't be palettized: weights hold infinite values or NaN"):
        palettize_program(program("ios16", {"down_conv": value}), {"down_conv": LayerRecipe(bits=4)})
