from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage.program import Program
from sfmobile.nets.attention import set_attention_form
from sfmobile.verify.divergence import Sample, component_program, find_divergence, trace_modules, weight_owners
from sfmobile.verify.recording import Call


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Checkpoint) -> torch.nn.Module:
    return tiny_checkpoint.load("unet", torch.float32)


@pytest.fixture
def program(tiny_bundle: Bundle) -> Program:
    return component_program(tiny_bundle, "unet")


@pytest.fixture(scope="module")
def call(tiny_bundle: Bundle, network: torch.nn.Module) -> Call:
    return make_call(tiny_bundle, network)


def make_call(bundle: Bundle, network: torch.nn.Module, scale: float = 1.0) -> Call:
    rng = np.random.default_rng(0)
    record = bundle.manifest.components["unet"]
    inputs = {tensor.name: rng.standard_normal(tensor.shape).astype(np.float32) for tensor in record.inputs}
    inputs["latents"] *= scale
    with torch.inference_mode():
        output = network(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    return Call("unet", "noise", inputs, {record.outputs[0].name: output.numpy()})


def spoil(program: Program, name: str) -> None:
    """Change a stored weight as a damaged conversion would."""
    constant = program.constants[name]

    def load() -> np.ndarray:
        value = np.array(constant.load())
        noise = np.random.default_rng(1).standard_normal(value.shape)
        return (value + 0.5 * np.abs(value).max() * noise).astype(value.dtype)

    program.constants[name] = replace(constant, load=load)


def amplified(bundle: Bundle, program: Program, network: torch.nn.Module) -> tuple[torch.nn.Module, Call]:
    """The network and the program with a conv_in whose output passes 65,504 while its inputs and weights don't."""
    loud = copy.deepcopy(network)
    loud.conv_in.weight.data *= 2**10
    constant = program.constants["conv_in_weight"]
    program.constants["conv_in_weight"] = replace(constant, load=lambda: np.array(constant.load()) * np.float16(2**10))
    return loud, make_call(bundle, loud, scale=100.0)


def test_a_good_program_has_no_divergence(program: Program, network: torch.nn.Module, call: Call) -> None:
    assert find_divergence(program, network, call, "fp32", 80.0) is None
    assert find_divergence(program, network, call, "fp16", 60.0) is None


def test_every_module_with_a_weight_is_found_in_the_program(program: Program, network: torch.nn.Module) -> None:
    owners = weight_owners(program, network)
    modules = {name for name, module in network.named_modules() if getattr(module, "weight", None) is not None}
    assert set(owners.values()) == modules and len(owners) == len(modules)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "module",
    [
        "conv_in",
        "down_blocks.0.resnets.0.norm2",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.transformer_blocks.0.norm3",
        "up_blocks.1.resnets.1.conv2",
        "conv_out",
    ],
)
def test_a_spoiled_weight_is_traced_to_the_operation_that_reads_it(
    module: str, precision: str, program: Program, network: torch.nn.Module, call: Call
) -> None:
    weight = f"{module.replace('.', '_')}_weight"
    spoil(program, weight)
    found = find_divergence(program, network, call, precision, 60.0)
    assert found is not None
    assert weight_owners(program, network)[program.operations[found.position].position] == module
    at_the_end = module == "conv_out"
    assert found.reference == ("the reference's output 'model_output'" if at_the_end else f"torch module {module}")
    assert found.agreement.psnr_db is not None and found.agreement.psnr_db < 60
    assert found.weight_psnr_db is not None and found.weight_psnr_db < 40


def test_an_error_between_weights_is_traced_to_the_next_one_whose_weight_is_good(
    program: Program, network: torch.nn.Module, call: Call
) -> None:
    position, operation = next(
        (index, operation) for index, operation in enumerate(program.operations) if operation.kind == "silu"
    )
    program.operations[position] = replace(operation, kind="relu")
    found = find_divergence(program, network, call, "fp32", 60.0)
    assert found is not None and found.reference == "torch module time_embedding.linear_2"
    assert found.weight_psnr_db is None or found.weight_psnr_db > 60
    assert found.previous is not None and "time_embedding_linear_1" in found.previous


def test_overflow_in_fp16_is_traced_to_the_operation_that_overflows(
    tiny_bundle: Bundle, program: Program, network: torch.nn.Module
) -> None:
    loud, call = amplified(tiny_bundle, program, network)
    found = find_divergence(program, loud, call, "fp16", 35.0)
    assert found is not None and found.agreement.nonfinite > 0
    assert found.name == "conv_in" and found.reference == "the same operation in fp32"
    assert find_divergence(program, loud, call, "fp32", 35.0) is None


def test_without_the_network_only_what_fp16_adds_can_be_traced(
    tiny_bundle: Bundle, program: Program, network: torch.nn.Module
) -> None:
    _, overflowing = amplified(tiny_bundle, program, network)
    found = find_divergence(program, None, overflowing, "fp16", 35.0)
    assert found is not None and found.name == "conv_in"
    spoil(program, "conv_out_weight")
    assert find_divergence(program, None, overflowing, "fp32", 35.0) is None


def test_palettized_split_attention_is_traced_too(tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    network = tiny_checkpoint.load("unet", torch.float32)
    set_attention_form(network, "split-einsum")
    program = component_program(tiny_palettized_bundle, "unet")
    found = find_divergence(program, network, make_call(tiny_palettized_bundle, network), "fp32", 45.0)
    assert found is not None and found.weight_psnr_db is not None and 20 < found.weight_psnr_db < 60


def test_chunks_are_traced_as_the_program_they_were_cut_from(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, network: torch.nn.Module, call: Call, tmp_path: Path
) -> None:
    options = ExportOptions(chunks=2, components=("unet",))
    chunked = component_program(export_bundle(tiny_checkpoint, tmp_path / "chunked", options), "unet")
    whole = component_program(tiny_bundle, "unet")
    assert [operation.name for operation in chunked.operations] == [operation.name for operation in whole.operations]
    assert chunked.inputs == whole.inputs and chunked.outputs == whole.outputs
    assert find_divergence(chunked, network, call, "fp16", 60.0) is None
    spoil(chunked, "up_blocks_1_resnets_1_conv2_weight")
    found = find_divergence(chunked, network, call, "fp32", 60.0)
    assert found is not None and found.name == "up_blocks_1_resnets_1_conv2"


def test_a_sample_keeps_small_arrays_whole_and_counts_every_value() -> None:
    small = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert Sample.of(small).values.tolist() == list(range(12))
    large = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    close = Sample.of(large + np.float32(1e-4)).against(Sample.of(large))
    assert close is not None and close.psnr_db is not None and 80 < close.psnr_db < 100
    large[[3, 5]] = np.inf
    broken = Sample.of(large).against(Sample.of(np.zeros_like(large)))
    assert broken is not None and broken.nonfinite >= 1 and not broken.reaches(-1e9)
    assert Sample.of(small).against(Sample.of(large)) is None


def test_modules_are_traced_once_and_hooks_are_gone(network: torch.nn.Module, call: Call) -> None:
    samples = trace_modules(network, call)
    assert samples["conv_out"].size == next(iter(call.outputs.values())).size
    assert not any(module._forward_hooks for module in network.modules())
