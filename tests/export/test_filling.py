from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types

from sfmobile.bundle.choices import Target
from sfmobile.bundle.digest import digest_file, digest_tree
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.palettize import palettize_weight
from sfmobile.compress.recipe import LayerRecipe, compressible_layers
from sfmobile.errors import ArtifactError
from sfmobile.export import coremltools_names as names
from sfmobile.export.component import Setting, component_specs
from sfmobile.export.filling import HeldWeights, fill
from sfmobile.export.lowering import lower, trace
from sfmobile.export.outline import LEFT_OUT, Outline
from sfmobile.export.outlining import draw_outline
from sfmobile.export.weights import HalfWeights, load_network
from sfmobile.mlpackage.names import layer_constant
from sfmobile.mlpackage.package import WEIGHTS_PATH, write_model
from tests.compress.test_palettize import weight
from tests.export.by_coremltools import write_by_coremltools


@pytest.mark.parametrize(
    ("name", "target", "layer"),
    [
        ("unet", "ios17", LayerRecipe(bits=6)),
        ("text_encoder", "ios16", LayerRecipe(bits=2)),
        ("decoder", "ios17", None),
        ("decoder", "ios16", LayerRecipe(bits=1)),
        ("text_encoder", "ios18", LayerRecipe(bits=3)),
        ("decoder", "ios18", LayerRecipe(bits=4, group_size=4)),
    ],
    ids=str,
)
def test_a_filled_outline_is_byte_for_byte_what_coremltools_writes(
    tiny_checkpoint: Checkpoint, tmp_path: Path, name: str, target: Target, layer: LayerRecipe | None
) -> None:
    spec, setting = component_specs(tiny_checkpoint)[name], Setting(tiny_checkpoint, (8, 8), 2)
    inputs, outputs = spec.inputs(setting), spec.outputs(setting)
    shapes = {key: tuple(value.shape) for key, value in tiny_checkpoint.state_dict(name).items()}
    layers = {} if layer is None else {layer_constant(one): layer for one in compressible_layers(shapes)}
    assert bool(layers) == (layer is not None)

    traced = trace(load_network(tiny_checkpoint, name, tmp_path / "scratch"), inputs)
    theirs = tmp_path / "theirs.mlpackage"
    write_by_coremltools(lower(traced, inputs, outputs, target), theirs, target, layers)

    outline = draw_outline(tiny_checkpoint.unfilled(name).half(), inputs, outputs, target)
    ours, done = tmp_path / "ours.mlpackage", []
    filled = fill(outline, ours, HalfWeights(tiny_checkpoint, name), layers, done.append)
    write_model(filled.model, ours)
    assert filled.weights_sha256 == digest_file(ours / WEIGHTS_PATH).sha256
    assert digest_tree(ours, ".") == digest_tree(theirs, ".")
    assert sum(done) == outline.values(layers)


TARGETS: dict[Target, ct.target] = {"ios16": ct.target.iOS16, "ios18": ct.target.iOS18}


def made_outline(target: Target, weights: dict[str, np.ndarray]) -> Outline:
    """Convolutions with named weights, one after the other."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8, 8, 8), dtype=types.fp16)], opset_version=TARGETS[target])
    def prog(x):
        for name, value in weights.items():
            x = mb.conv(x=x, weight=mb.const(val=value, name=name), pad_type="same", name=f"{name}_conv")
            x = mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 8, 8, 8])
        return x

    with names.weights_by_name({name: f"{LEFT_OUT}{name}" for name in weights}):
        program: Program = prog
        return Outline(
            names.SERIALIZE.load()(
                program, weights_dir="", specification_version=TARGETS[target].value, convert_to="mlprogram"
            )
        )


@pytest.mark.parametrize(
    ("target", "layer"),
    [
        *(("ios16", LayerRecipe(bits=bits)) for bits in (1, 2, 4, 6, 8)),
        *(("ios18", LayerRecipe(bits=bits)) for bits in (1, 2, 3, 4, 6, 8)),
        *(("ios18", LayerRecipe(bits=bits, group_size=4)) for bits in (1, 3, 6)),
    ],
    ids=str,
)
def test_what_is_stored_decompresses_in_coremltools_to_the_palette(
    tmp_path: Path, target: Target, layer: LayerRecipe
) -> None:
    value, path = weight(3), tmp_path / "x.mlpackage"
    outline = made_outline(target, {"w": value})
    write_model(fill(outline, path, HeldWeights({"w": value}), {"w": layer}, lambda _: None).model, path)
    program = ct.converters.mil.frontend.milproto.load.load(
        ct.utils.load_spec(str(path)), TARGETS[target].value, str(path / "Data/com.apple.CoreML/weights")
    )
    (stored,) = (op for op in program.functions["main"].operations if op.op_type == "constexpr_lut_to_dense")
    np.testing.assert_array_equal(stored.materialized_val_inference(), palettize_weight(value, layer).dense())
    assert stored.outputs[0].child_ops[0].op_type == "conv"


def test_many_weights_keep_their_own_values_in_order(tmp_path: Path) -> None:
    values = {f"w{index}": weight(index) for index in range(20)}
    layers = {name: LayerRecipe(bits=8) for index, name in enumerate(values) if index % 3}
    path = tmp_path / "x.mlpackage"
    outline = made_outline("ios18", values)
    write_model(fill(outline, path, HeldWeights(values), layers, lambda _: None).model, path)
    program = ct.converters.mil.frontend.milproto.load.load(
        ct.utils.load_spec(str(path)), ct.target.iOS18.value, str(path / "Data/com.apple.CoreML/weights")
    )
    read = {op.name: op for op in program.functions["main"].operations if op.op_type == "conv"}
    for name, value in values.items():
        source = read[f"{name}_conv"].weight
        assert source.op.op_type == ("constexpr_lut_to_dense" if name in layers else "const")
        found = source.op.materialized_val_inference() if name in layers else source.val
        assert np.abs(found - value).max() <= (0.1 if name in layers else 0)


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    value = weight(0)
    value[3, 2, 1, 1] = np.nan
    outline = made_outline("ios16", {"down_conv": value})
    with pytest.raises(ArtifactError, match="Weight 'down_conv' holds infinite values or NaN"):
        fill(
            outline,
            tmp_path / "x.mlpackage",
            HeldWeights({"down_conv": value}),
            {"down_conv": LayerRecipe(bits=4)},
            lambda _: None,
        )
