"""The programs that exports are made of: what they hold, what they compute, and what they must not hold."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from sfmobile.bundle.manifest import ComponentName
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export import lowering
from sfmobile.export.component import Setting, component_specs
from sfmobile.export.lowering import lower, trace, weight_names
from sfmobile.export.torch_ops import attention, channel_layer_norm, group_norm, replace_modules
from sfmobile.mlpackage.names import constant_name
from sfmobile.nets.attention import ATTENTION_FORMS, AttentionForm, set_attention_form
from sfmobile.nets.norm import ChannelLayerNorm

Traced = Callable[[ComponentName, AttentionForm], object]
Lowered = Callable[[ComponentName, AttentionForm, str], object]


@pytest.fixture(scope="module")
def traced(tiny_checkpoint: Checkpoint) -> Traced:
    """Traced networks by component and attention form, each made once."""

    @cache
    def exported(name: ComponentName, form: AttentionForm):
        net = half(tiny_checkpoint, name)
        set_attention_form(net, form)
        return trace(net, component_specs(tiny_checkpoint)[name].inputs(Setting(tiny_checkpoint, (8, 16), 2)))

    return exported


@pytest.fixture(scope="module")
def lowered(tiny_checkpoint: Checkpoint, traced: Traced) -> Lowered:
    """Programs by component, attention form and target, each made once."""

    @cache
    def program(name: ComponentName, form: AttentionForm, target: str):
        return lower_anew(tiny_checkpoint, traced, name, form, target)

    return program


def lower_anew(checkpoint: Checkpoint, traced: Traced, name: ComponentName, form: AttentionForm, target: str):
    setting = Setting(checkpoint, (8, 16), 2)
    return lower(
        traced(name, form),
        component_specs(checkpoint)[name].inputs(setting),
        component_specs(checkpoint)[name].outputs(setting),
        target,
    )


def half(checkpoint: Checkpoint, name: ComponentName) -> nn.Module:
    return checkpoint.load(name, torch.float16).half()


def kinds(program) -> Counter[str]:
    return Counter(op.op_type for op in program.functions["main"].operations if op.op_type != "const")


def modules(checkpoint: Checkpoint, name: ComponentName, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in checkpoint.load(name).modules())


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
@pytest.mark.parametrize("form", ATTENTION_FORMS)
def test_norms_are_single_operations_without_transposes(
    lowered: Lowered, tiny_checkpoint: Checkpoint, name: ComponentName, form: AttentionForm
) -> None:
    found = kinds(lowered(name, form, "ios16"))
    groups = modules(tiny_checkpoint, name, nn.GroupNorm)
    assert found["instance_norm"] == found["batch_norm"] == groups
    assert found["layer_norm"] == modules(tiny_checkpoint, name, ChannelLayerNorm)
    assert not found.keys() & {"square", "reduce_mean", "rsqrt", "sqrt", "real_div", "pow", "sub"}


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
@pytest.mark.parametrize("form", ATTENTION_FORMS)
@pytest.mark.parametrize("target", ["ios16", "ios18"])
def test_nothing_is_wide_dynamic_or_trigonometric(
    lowered: Lowered, name: ComponentName, form: AttentionForm, target: str
) -> None:
    from coremltools.converters.mil.mil import types

    program = lowered(name, form, target)
    assert not kinds(program).keys() & {"sin", "cos", "cast", "shape", "tile", "identity", "greater_equal", "select"}
    for op in program.functions["main"].operations:
        for variable in op.outputs:
            # Scale factors of upsampling are fp32 by the operation's own signature.
            scalar = op.op_type == "const" and variable.rank == 0
            assert scalar or variable.dtype not in (types.fp32, types.fp64), f"{op.name} is an fp32 island"
            assert all(isinstance(size, int) for size in variable.shape)
            assert len(variable.shape) <= 4


def test_original_attention_is_two_products_without_transposes_before_ios18(lowered: Lowered) -> None:
    unet = kinds(lowered("unet", "original", "ios16"))
    assert unet["matmul"] == 2 * unet["softmax"] > 0 and unet["transpose"] == 0
    assert kinds(lowered("text_encoder", "original", "ios16"))["transpose"] == 1  # of the embeddings, once


def test_original_attention_is_one_operation_on_ios18(lowered: Lowered) -> None:
    unet = kinds(lowered("unet", "original", "ios18"))
    assert unet["scaled_dot_product_attention"] == kinds(lowered("unet", "original", "ios16"))["softmax"]
    assert "matmul" not in unet and "softmax" not in unet


def test_split_attention_has_one_softmax_per_head_and_one_transpose_per_block(
    lowered: Lowered, tiny_checkpoint: Checkpoint
) -> None:
    from sfmobile.nets.attention import Attention

    blocks = [module for module in tiny_checkpoint.load("unet").modules() if isinstance(module, Attention)]
    found = kinds(lowered("unet", "split-einsum", "ios16"))
    assert found["softmax"] == sum(block.heads for block in blocks)
    assert found["einsum"] == 2 * found["softmax"] and found["transpose"] == len(blocks)
    for op in lowered("unet", "split-einsum", "ios16").functions["main"].operations:
        if op.op_type == "softmax":
            assert op.axis.val == 1


def test_queries_are_chunked_by_512_in_the_second_split_form(tiny_checkpoint: Checkpoint) -> None:
    net = half(tiny_checkpoint, "unet")
    set_attention_form(net, "split-einsum-v2")
    setting = Setting(tiny_checkpoint, (32, 40), 1)
    inputs, outputs = (
        component_specs(tiny_checkpoint)["unet"].inputs(setting),
        component_specs(tiny_checkpoint)["unet"].outputs(setting),
    )
    program = lower(trace(net, inputs), inputs, outputs, "ios17")
    lengths = {op.outputs[0].shape[3] for op in program.functions["main"].operations if op.op_type == "softmax"}
    assert lengths == {512, 1280 % 512, 320}


def test_mask_is_finite_in_fp16_and_constant(lowered: Lowered) -> None:
    for form in ATTENTION_FORMS:
        program = lowered("text_encoder", form, "ios16")
        masks = [
            op.y.val
            for op in program.functions["main"].operations
            if op.op_type == "add" and op.y.val is not None and "attn" in op.name
        ]
        assert masks
        for mask in masks:
            assert mask.dtype == np.float16 and np.isfinite(mask).all() and mask.min() <= -3e4


def test_operations_are_named_by_module_and_weights_by_key(lowered: Lowered, tiny_checkpoint: Checkpoint) -> None:
    operations = {op.name: op for op in lowered("unet", "original", "ios16").functions["main"].operations}
    conv = operations["down_blocks_0_resnets_0_conv1"]
    assert conv.op_type == "conv" and conv.weight.op.name == constant_name("down_blocks.0.resnets.0.conv1.weight")
    for key, weight in tiny_checkpoint.state_dict("unet").items():
        np.testing.assert_array_equal(operations[constant_name(key)].outputs[0].val, weight.numpy())


def test_weight_names_lead_back_to_keys(tiny_checkpoint: Checkpoint) -> None:
    net = half(tiny_checkpoint, "decoder")
    exported = trace(net, component_specs(tiny_checkpoint)["decoder"].inputs(Setting(tiny_checkpoint, (8, 8), 2)))
    assert set(weight_names(exported).values()) == set(tiny_checkpoint.state_dict("decoder"))


def test_inputs_and_outputs_have_the_contracts_names_and_types(lowered: Lowered, tiny_checkpoint: Checkpoint) -> None:
    for name in TEXT_TO_IMAGE:
        function = lowered(name, "split-einsum", "ios16").functions["main"]
        spec, setting = component_specs(tiny_checkpoint)[name], Setting(tiny_checkpoint, (8, 16), 2)
        for record, (found, variable) in zip(spec.inputs(setting), function.inputs.items(), strict=True):
            assert (record.name, record.shape) == (found, tuple(variable.shape))
        (record,), (output,) = spec.outputs(setting), function.outputs
        assert (record.name, record.shape) == (output.name, tuple(output.shape))


def outputs_computed(program) -> list[str]:
    """A digest per output over all it is computed from, up to the names and the order of operations."""
    known: dict[object, str] = {}

    def digest(variable) -> str:
        op = variable.op
        if op is None:
            return variable.name
        if variable.val is not None:
            value = np.asarray(variable.val)
            return hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).hexdigest()
        arguments = [
            (key, [known[item] for item in value] if isinstance(value, (list, tuple)) else known[value])
            for key, value in sorted(op.inputs.items())
        ]
        return hashlib.sha256(f"{op.op_type}{arguments}{op.outputs.index(variable)}".encode()).hexdigest()

    function = program.functions["main"]
    known.update((variable, digest(variable)) for variable in function.inputs.values())
    for op in function.operations:
        known.update((variable, digest(variable)) for variable in op.outputs)
    return [known[variable] for variable in function.outputs]


@pytest.mark.parametrize(
    ("name", "form", "target"),
    [
        ("text_encoder", "original", "ios16"),
        ("text_encoder", "split-einsum", "ios18"),
        ("unet", "original", "ios18"),
        ("unet", "split-einsum", "ios16"),
        ("decoder", "original", "ios16"),
    ],
)
def test_passes_left_out_change_nothing(
    lowered: Lowered,
    traced: Traced,
    tiny_checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    name: ComponentName,
    form: AttentionForm,
    target: str,
) -> None:
    import coremltools as ct

    whole = [*ct.PassPipeline.DEFAULT.passes, *ct.PassPipeline.get_pipeline("backend_mlprogram").passes]
    # Casting passes have nothing to cast; token ids are never negative and need no guard with integer arithmetic;
    # folding the attention scale into `to_q` would ship other weights than the checkpoint has.
    left_out = {"common::add_fp16_cast", "common::add_int16_cast"}
    left_out |= {"common::guard_negative_gather_indices", "common::fuse_conv_scale"}
    ours = lowered(name, form, target)
    monkeypatch.setattr(lowering, "PASSES", tuple(item for item in whole if item not in left_out))
    theirs = lower_anew(tiny_checkpoint, traced, name, form, target)
    assert kinds(ours) == kinds(theirs)
    assert outputs_computed(ours) == outputs_computed(theirs)


def test_a_program_that_is_not_float16_is_refused(tiny_checkpoint: Checkpoint) -> None:
    net = tiny_checkpoint.load("decoder", torch.float32)
    setting = Setting(tiny_checkpoint, (8, 8), 2)
    wide = tuple(
        item.model_copy(update={"dtype": "float32"})
        for item in component_specs(tiny_checkpoint)["decoder"].inputs(setting)
    )
    with pytest.raises(lowering.LoweringError, match="expected float16 throughout"):
        lower(trace(net, wide), wide, component_specs(tiny_checkpoint)["decoder"].outputs(setting), "ios17")


def test_operators_compute_what_the_modules_they_replace_compute() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 16, 4, 6), torch.rand(16) + 0.5, torch.randn(16)
    expected = nn.functional.group_norm(x, 4, weight, bias, 1e-5)
    torch.testing.assert_close(group_norm(x, weight, bias, 4, 1e-5), expected)
    rows = torch.randn(2, 16, 1, 7)
    norm = ChannelLayerNorm(16)
    norm.weight.data, norm.bias.data = weight, bias
    torch.testing.assert_close(channel_layer_norm(rows, weight, bias, norm.eps), norm(rows))
    q, k, v = torch.randn(2, 16, 1, 9), torch.randn(2, 16, 1, 5), torch.randn(2, 16, 1, 5)
    mask = torch.randn(9, 5)
    whole = attention(q, k, v, mask, 4, False, 0)
    for chunk in (0, 4):
        torch.testing.assert_close(attention(q, k, v, mask, 4, True, chunk), whole)


@pytest.mark.parametrize("form", ATTENTION_FORMS)
def test_network_with_operators_gives_the_same_result_and_keeps_its_keys(
    tiny_checkpoint: Checkpoint, form: AttentionForm
) -> None:
    for name in TEXT_TO_IMAGE:
        plain, replaced = tiny_checkpoint.load(name), tiny_checkpoint.load(name)
        set_attention_form(plain, form)
        set_attention_form(replaced, form)
        replace_modules(replaced)
        assert replaced.state_dict().keys() == plain.state_dict().keys()
        inputs = component_specs(tiny_checkpoint)[name].inputs(Setting(tiny_checkpoint, (8, 16), 2))
        torch.manual_seed(1)
        arguments = [
            torch.randint(0, 500, item.shape) if item.dtype == "int32" else torch.randn(item.shape) for item in inputs
        ]
        torch.testing.assert_close(replaced(*arguments), plain(*arguments), rtol=1e-4, atol=1e-4)
