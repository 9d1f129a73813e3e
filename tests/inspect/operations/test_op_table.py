from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from torch.utils.flop_counter import FlopCounterMode

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.inspect.operations.flops import elementwise, flops
from sfmobile.inspect.operations.op_table import block_costs, op_table, padded_bytes, stored_weight, weights_of
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import load_program
from sfmobile.mlpackage.types import TensorType
from sfmobile.nets.layout import SD15_UNET, SNAPFUSION_UNET
from sfmobile.nets.unet import UNet
from tests.runtime.mil.programs import make_program

RANDOM = np.random.default_rng(0)


def half(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float16)


def flops_of(body: Any, *values: np.ndarray, target: str = "ios16") -> int:
    graph = Graph(make_program(body, {f"in{i}": value for i, value in enumerate(values)}, target))
    return sum(flops(graph, operation) for operation in graph.program.operations)


def counted_by_torch(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(("stride", "groups", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 4, 1), (3, 2, 5)])
def test_convolutions_count_as_torch_counts_them(stride: int, groups: int, kernel: int) -> None:
    x, weight = half(2, 8, 16, 16), half(16, 8 // groups, kernel, kernel)
    found = flops_of(
        lambda x: mb.conv(x=x, weight=weight, strides=[stride, stride], groups=groups, pad_type="valid"), x
    )
    tensors = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(weight.astype(np.float32))
    assert found == counted_by_torch(lambda: torch.conv2d(*tensors, stride=stride, groups=groups))


def test_transposed_convolutions_count_as_torch_counts_them() -> None:
    x, weight = half(1, 6, 9, 9), half(6, 4, 3, 3)
    found = flops_of(lambda x: mb.conv_transpose(x=x, weight=weight, strides=[2, 2]), x)
    tensors = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(weight.astype(np.float32))
    assert found == counted_by_torch(lambda: torch.conv_transpose2d(*tensors, stride=2))


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_products_count_two_per_multiplication(transposed: bool) -> None:
    x = half(3, 7, 5) if transposed else half(3, 5, 7)
    assert flops_of(lambda x, y: mb.matmul(x=x, y=y, transpose_x=transposed), x, half(3, 7, 11)) == 2 * 3 * 5 * 7 * 11
    assert flops_of(lambda x: mb.linear(x=x, weight=half(11, 7)), half(3, 5, 7)) == 2 * 3 * 5 * 7 * 11


def test_einsum_counts_every_letter_of_its_equation() -> None:
    found = flops_of(
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"), half(2, 3, 4, 5), half(2, 5, 4, 6)
    )
    assert found == 2 * 2 * 3 * 4 * 5 * 6


def test_fused_attention_counts_both_products() -> None:
    q, k = half(1, 2, 16, 8), half(1, 2, 24, 8)
    found = flops_of(lambda q, k: mb.scaled_dot_product_attention(query=q, key=k, value=k), q, k, target="ios18")
    wide = [torch.from_numpy(value.astype(np.float32)) for value in (q, k)]
    scores = counted_by_torch(lambda: wide[0] @ wide[1].transpose(2, 3))
    assert found == 2 * scores


def test_elementwise_work_is_counted_apart_and_moves_not_at_all() -> None:
    program = make_program(
        lambda x: mb.transpose(x=mb.silu(x=mb.reshape(x=x, shape=(1, 8, 4, 4))), perm=(0, 2, 3, 1)),
        {"x": half(1, 4, 8, 4)},
    )
    graph = Graph(program)
    assert [elementwise(operation) for operation in program.operations] == [0, 128, 0]
    assert [flops(graph, operation) for operation in program.operations] == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "bytes_"),
    [((1, 4, 1, 32), 256), ((1, 4, 1, 33), 512), ((2, 3, 8, 8), 2 * 3 * 8 * 64), ((1, 4, 1, 1), 256)],
)
def test_rows_are_padded_to_64_bytes(shape: tuple[int, ...], bytes_: int) -> None:
    assert padded_bytes(TensorType("fp16", shape)) == bytes_


def test_the_exported_unet_counts_what_torch_counts_of_the_network(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    # On the meta device, where attention is spelled out: torch counts nothing of its fused CPU kernel.
    with torch.device("meta"):
        net = UNet(tiny_checkpoint.unet_layout)
    for bundle in (tiny_bundle, tiny_palettized_bundle):
        inputs = [torch.empty(record.shape, device="meta") for record in bundle.manifest.components["unet"].inputs]
        table = op_table(Graph(load_program(bundle.package("unet"))))
        assert sum(cost.flops for cost in table) == counted_by_torch(lambda inputs=inputs: net(*inputs))
        assert sum(block.flops for block in block_costs(table)) == sum(cost.flops for cost in table)


@pytest.mark.parametrize(("layout", "tflop", "gmac"), [(SD15_UNET, 1.607, 401.6), (SNAPFUSION_UNET, 1.218, 304.5)])
def test_the_full_size_unets_have_their_published_arithmetic(layout: Any, tflop: float, gmac: float) -> None:
    """From the committed tables, which benchmarks/cost_model.py reads off the exported programs."""
    import json

    path = Path(__file__).parents[3] / "benchmarks" / "cost_model_data" / "networks.json"
    blocks = json.loads(path.read_text())["blocks"][f"{layout.name}-unet"]
    macs = sum(sum(parts[:3]) for parts in blocks.values())
    assert round(2 * macs / 1e12, 3) == tflop
    assert round(macs / 2 / 1e9, 1) == gmac
    assert set(layout.block_names()) <= set(blocks)


def test_attention_at_the_highest_resolution_is_what_snapfusion_removes() -> None:
    import json

    path = Path(__file__).parents[3] / "benchmarks" / "cost_model_data" / "networks.json"
    blocks = json.loads(path.read_text())["blocks"]

    def attention(name: str) -> float:
        return round(sum(parts[2] for parts in blocks[name].values()) / 2 / 1e9, 1)

    assert (attention("sd15-unet"), attention("snapfusion-unet")) == (63.0, 9.0)


def test_stored_bytes_are_those_of_the_weight_file(tiny_palettized_bundle: Bundle) -> None:
    package = tiny_palettized_bundle.package("unet")
    graph = Graph(load_program(package))
    stored = [weight for _, weight in weights_of(graph)]
    packed = [weight for weight in stored if weight.compressed]
    assert packed and all(weight.bits == 6 for weight in packed)
    assert all(weight.bits == 16 for weight in stored if not weight.compressed)
    file_bytes = (package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size
    headers = 128 * 2 * len(stored)
    assert file_bytes - headers < sum(weight.bytes for weight in stored) <= file_bytes


def test_bits_of_grouped_tables_of_ios18() -> None:
    def body(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(
            indices=RANDOM.integers(0, 16, (8, 4, 3, 3)).astype(types.np_uint4_dtype),
            lut=half(2, 1, 1, 1, 16, 1),
        )
        return mb.conv(x=x, weight=weight)

    program = make_program(body, {"x": half(1, 4, 8, 8)}, "ios18")
    (constant,) = [one for one in program.constants.values() if one.compressed]
    weight = stored_weight("weight", constant)
    assert (weight.bits, weight.bytes) == (4, 8 * 4 * 9 // 2 + 2 * 16 * 2)
