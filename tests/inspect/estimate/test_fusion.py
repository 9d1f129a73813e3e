from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb

from sfmobile.bundle.directory import Bundle
from sfmobile.inspect.estimate.cost import runs
from sfmobile.inspect.estimate.fusion import RESIDENT_BYTES, Segment, fuse
from sfmobile.inspect.operations.op_table import op_table
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import load_program
from tests.runtime.mil.programs import make_program

RANDOM = np.random.default_rng(0)
CPU = frozenset({"sin"})


def half(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float16)


def segments(body: Any, *values: np.ndarray) -> list[Segment]:
    program = make_program(body, {f"in{index}": value for index, value in enumerate(values)})
    return fuse(Graph(program), CPU)


def test_elementwise_work_joins_the_product_before_it() -> None:
    def body(x: Any) -> Any:
        hidden = mb.silu(x=mb.conv(x=x, weight=half(8, 4, 3, 3), pad_type="same"))
        return mb.relu(x=mb.conv(x=hidden, weight=half(4, 8, 1, 1)))

    first, second = segments(body, half(1, 4, 16, 32))
    assert first.macs == {"spatial": 8 * 16 * 32 * 4 * 9}
    assert second.macs == {"pointwise": 4 * 16 * 32 * 8}
    assert first.elementwise == 8 * 16 * 32
    assert first.weight_bytes == 8 * 4 * 9 * 2


def test_a_residual_sum_joins_what_is_computed_last() -> None:
    def body(x: Any) -> Any:
        first = mb.conv(x=x, weight=half(4, 4, 1, 1))
        return mb.add(x=first, y=mb.conv(x=first, weight=half(4, 4, 1, 1)))

    _, second = segments(body, half(1, 4, 16, 32))
    assert second.elementwise == 4 * 16 * 32


def test_only_values_beyond_the_on_chip_memory_stream() -> None:
    def body(x: Any) -> Any:
        wide = mb.relu(x=mb.conv(x=x, weight=half(128, 4, 1, 1)))
        return mb.conv(x=wide, weight=half(4, 128, 1, 1))

    x = half(1, 4, 128, 128)
    large = 128 * 128 * 128 * 2
    assert large > RESIDENT_BYTES > x.nbytes
    first, second = segments(body, x)
    assert (first.streamed_bytes, first.resident_bytes) == (large, x.nbytes)
    assert (second.streamed_bytes, second.resident_bytes) == (large, x.nbytes)


def test_operations_on_the_cpu_stand_apart_and_cost_dispatches() -> None:
    def body(x: Any) -> Any:
        return mb.relu(x=mb.sin(x=mb.conv(x=x, weight=half(4, 4, 1, 1))))

    found = segments(body, half(1, 4, 1, 32))
    assert [segment.fallback for segment in found] == [False, True, False]
    assert runs(found) == 3
    assert runs(found[:1]) == 1
    assert runs([]) == 0


def test_fp32_computes_on_the_cpu_and_casts_do_not_count_as_computing() -> None:
    def body(x: Any) -> Any:
        wide = mb.exp(x=mb.cast(x=mb.relu(x=x), dtype="fp32"))
        return mb.cast(x=wide, dtype="fp16")

    assert [segment.fallback for segment in segments(body, half(1, 4, 1, 32))] == [False, True, False]


def test_products_of_two_activations_are_attention() -> None:
    (found,) = segments(
        lambda q, k: mb.einsum(values=(k, q), equation="nchw,nwhu->nchu"), half(1, 8, 1, 16), half(1, 8, 1, 8)
    )
    assert list(found.macs) == ["attention"]


def test_nothing_of_an_exported_unet_is_lost_or_counted_twice(tiny_bundle: Bundle) -> None:
    graph = Graph(load_program(tiny_bundle.package("unet")))
    table = op_table(graph)
    found = fuse(graph, CPU, table)
    positions = [position for segment in found for position in segment.positions]
    assert sorted(positions) == [cost.position for cost in table]
    assert sum(segment.flops for segment in found) == sum(cost.flops for cost in table)
    assert sum(segment.weight_bytes for segment in found) == sum(cost.weight_bytes for cost in table)
    assert not any(segment.fallback for segment in found)
