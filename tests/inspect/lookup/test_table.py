from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.inspect.lookup.block_keys import BlockKey, BlockOptions, layout_blocks
from sfmobile.inspect.lookup.block_packages import block_inputs, block_output, block_package, build_block
from sfmobile.inspect.lookup.table import (
    EMPTY,
    GrowingTable,
    LookupTable,
    build_table,
    count_blocks,
    random_inputs,
    read_table,
)
from sfmobile.inspect.lookup.timers import BlockTiming, EstimateTimer, Timer
from sfmobile.mlpackage.program import load_program
from sfmobile.nets.layout import SD15_UNET, SNAPFUSION_UNET, Stage
from sfmobile.nets.unet import UNet
from sfmobile.runtime.mil.evaluate import Evaluator
from tests.bench.sample import MACHINE
from tests.tiny import TINY_SNAPFUSION_UNET, TINY_UNET

OPTIONS = BlockOptions(height=8, width=8)
WIDER_UNET = replace(
    TINY_UNET,
    name="wider",
    down=(Stage(32, 1, 1), Stage(96, 1, 0)),
    mid=Stage(96, 2, 1),
    up=(Stage(96, 2, 0), Stage(32, 2, 2)),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


class Counting(Timer):
    """Says a millisecond for every million of multiply-accumulates a name stands for: tests need no clock."""

    def __init__(self, name: str = "a clock", overhead: float = 0.5) -> None:
        super().__init__("measured", name, None, MACHINE)
        self.overhead = overhead
        self.timed: list[str] = []

    def time(self, package: Path, inputs: object) -> BlockTiming:
        from sfmobile.inspect.operations.op_table import op_table
        from sfmobile.mlpackage.graph import Graph

        self.timed.append(package.stem)
        macs = sum(cost.macs for cost in op_table(Graph(load_program(package))))
        return BlockTiming(milliseconds=macs / 1e6 + self.overhead, minimum_ms=self.overhead, predictions=3)


@pytest.mark.parametrize(
    "layout", [TINY_UNET, TINY_SNAPFUSION_UNET, SD15_UNET, SNAPFUSION_UNET], ids=lambda one: one.name
)
def test_a_layouts_blocks_are_its_networks_modules(layout: object) -> None:
    blocks = dict(layout_blocks(layout, BlockOptions()))  # type: ignore[arg-type]
    assert set(layout.block_names()) <= set(blocks)  # type: ignore[attr-defined]
    with torch.device("meta"):
        net = UNet(layout)  # type: ignore[arg-type]
    resampling = [name for name, module in net.named_modules() if type(module).__name__ in ("Downsample", "Upsample")]
    assert set(resampling) <= set(blocks)
    for name, key in blocks.items():
        if key.kind in ("resnet", "attention", "downsample", "upsample"):
            ours = {n: tuple(w.shape) for n, w in net.get_submodule(name).state_dict().items()}
            alone = {n: tuple(w.shape) for n, w in _meta(key).state_dict().items()}
            assert alone == ours, name


def _meta(key: BlockKey) -> torch.nn.Module:
    with torch.device("meta"):
        return build_block(key)


def test_blocks_have_all_weights_of_a_network_with_depths_and_an_added_embedding() -> None:
    layout = replace(
        TINY_UNET,
        down=(Stage(32, 1, 0), Stage(64, 1, 1, (3,))),
        mid=Stage(64, 2, 1, (3,)),
        up=(Stage(64, 2, 2, (1, 2)), Stage(32, 2, 0)),
        added_embedding_dim=68,
    )
    keys = [key for _, key in layout_blocks(layout, BlockOptions(height=8, width=8))]
    assert [key.depth for key in keys if key.kind == "attention"] == [3, 3, 1, 2]
    blocks = [parameter.numel() for key in keys for parameter in build_block(key).parameters()]
    assert sum(blocks) == sum(parameter.numel() for parameter in UNet(layout).parameters())
    added = next(key for key in keys if key.kind == "time_embedding")
    assert [record.shape for record in block_inputs(added)] == [(2, 32, 1, 1), (2, 68, 1, 1)]


def test_sizes_of_a_latent_that_does_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 2"):
        layout_blocks(TINY_UNET, BlockOptions(height=7, width=8))


def test_equal_keys_have_equal_hashes_and_any_difference_another() -> None:
    (_, key) = layout_blocks(TINY_UNET, OPTIONS)[2]
    assert key.sha256 == key.model_copy().sha256
    for change in ({"height": 16}, {"bits": 6}, {"batch": 1}, {"target": "ios18"}, {"groups": 4}):
        assert key.model_copy(update=change).sha256 != key.sha256


@pytest.mark.parametrize(
    "kind", ["resnet", "attention", "downsample", "upsample", "conv_in", "conv_out", "time_embedding"]
)
def test_every_kind_of_block_exports_and_computes_what_the_module_computes(kind: str, cache: Path) -> None:
    key = next(key for _, key in layout_blocks(TINY_UNET, OPTIONS) if key.kind == kind)
    inputs = random_inputs(block_inputs(key))
    found = Evaluator(load_program(block_package(key, cache)))(inputs)["output"]
    net = build_block(key).float()
    with torch.inference_mode():
        expected = net(*(torch.from_numpy(value.astype(np.float16).astype(np.float32)) for value in inputs.values()))
    assert found.shape == tuple(block_output(key).shape) == tuple(expected.shape)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-2 * float(expected.abs().max()))


def test_a_palettized_block_is_palettized(cache: Path) -> None:
    key = next(
        key for _, key in layout_blocks(TINY_UNET, OPTIONS.model_copy(update={"bits": 4})) if key.kind == "resnet"
    )
    constants = load_program(block_package(key, cache)).constants.values()
    assert any(constant.compressed for constant in constants)


def test_a_package_is_made_once(cache: Path) -> None:
    first = block_package(EMPTY, cache)
    made = first.stat().st_mtime_ns
    assert block_package(EMPTY, cache) == first
    assert first.stat().st_mtime_ns == made
    assert not list(cache.glob(".making-*"))


def test_a_layouts_latency_is_the_sum_of_its_blocks(cache: Path) -> None:
    timer = Counting()
    table = build_table([TINY_UNET], OPTIONS, timer, cache, whole=True)
    (check,) = table.checks
    times = table.block_times(TINY_UNET)
    assert list(times) == [name for name, _ in layout_blocks(TINY_UNET, OPTIONS)]
    assert table.latency(TINY_UNET) == pytest.approx(sum(times.values()) + 0.5) == check.predicted_ms
    # A clock that counts arithmetic adds up exactly: nothing is missing from the sum, nothing counted twice.
    assert check.measured_ms == pytest.approx(check.predicted_ms)
    assert check.error_percent == pytest.approx(0)
    # Equal blocks were timed once, and the call that computes nothing, and the whole.
    assert len(timer.timed) == count_blocks([TINY_UNET], OPTIONS) + 2


def test_a_table_grows_and_keeps_what_it_has(cache: Path) -> None:
    first = build_table([TINY_UNET], OPTIONS, Counting(), cache)
    timer = Counting()
    both = build_table([TINY_UNET, WIDER_UNET], OPTIONS, timer, cache, previous=first)
    known = {entry.sha256 for entry in first.entries}
    assert known.isdisjoint(timer.timed)
    assert known < {entry.sha256 for entry in both.entries}
    assert both.latency(TINY_UNET) == pytest.approx(first.latency(TINY_UNET))
    assert both.missing(WIDER_UNET) == []


def test_a_layout_of_known_blocks_needs_no_measurement(cache: Path) -> None:
    # SnapFusion's shape in small: the same kinds of blocks, in other numbers.
    table = build_table([TINY_UNET], OPTIONS, Counting(), cache)
    assert table.missing(TINY_SNAPFUSION_UNET) == []
    assert table.latency(TINY_SNAPFUSION_UNET) > table.latency(TINY_UNET)


def test_a_table_that_lacks_blocks_says_which_to_measure(cache: Path) -> None:
    table = build_table([TINY_UNET], OPTIONS, Counting(), cache)
    assert table.missing(TINY_UNET) == []
    missing = table.missing(WIDER_UNET)
    assert {key.kind for key in missing} == {"resnet", "attention", "upsample"}
    with pytest.raises(
        UsageError, match=f"lacks {len(missing)} blocks of layout 'wider': resnet 32->96 at 4x4"
    ) as raised:
        table.latency(WIDER_UNET)
    assert f"and {len(missing) - 4} more; measure them with `sfmobile profile-blocks`" in str(raised.value)


def test_timings_of_another_runtime_or_other_options_are_not_mixed(cache: Path) -> None:
    table = build_table([TINY_UNET], OPTIONS, Counting(), cache)
    with pytest.raises(UsageError, match="holds timings of a clock"):
        build_table([TINY_UNET], OPTIONS, Counting("another clock"), cache, previous=table)
    with pytest.raises(UsageError, match="batch 1"):
        build_table([TINY_UNET], OPTIONS.model_copy(update={"batch": 1}), Counting(), cache, previous=table)


def test_a_table_is_read_as_it_was_written_and_nothing_else_is_one(cache: Path, tmp_path: Path) -> None:
    table = build_table([TINY_UNET], OPTIONS, Counting(), cache)
    path = tmp_path / "tables" / "table.json"
    table.write(path)
    assert read_table(path) == table
    for content, words in (
        ("{", "is not JSON .*: expected a lookup table; write one with `sfmobile profile-blocks`"),
        ('{"kind": "bench"}', "is not a lookup table at kind: .* found 'bench'; write one with"),
        (path.read_text().replace('"version": 1', '"version": 2', 1), "version 2 but this sfmobile reads 1; upgrade"),
    ):
        path.write_text(content)
        with pytest.raises(ArtifactError, match=words):
            read_table(path)
    with pytest.raises(ArtifactError, match=r"absent\.json' doesn't exist: expected a lookup table"):
        read_table(tmp_path / "absent.json")


def test_an_estimated_table_says_so_and_adds_up_to_the_estimate_of_the_whole(cache: Path) -> None:
    table: LookupTable = build_table([TINY_UNET], OPTIONS, EstimateTimer("iphone-14-pro"), cache, whole=True)
    assert (table.label, table.device, table.machine) == ("estimated", "iphone-14-pro", None)
    (check,) = table.checks
    assert check.error_percent == pytest.approx(0, abs=10)


def test_a_growing_table_times_what_a_layout_asks_for_and_nothing_twice(cache: Path, tmp_path: Path) -> None:
    path, clock = tmp_path / "table.json", Counting()
    growing = GrowingTable(path, None, OPTIONS, clock, cache)
    first = growing.latency(TINY_UNET)
    timed = len(clock.timed)
    assert first == read_table(path).latency(TINY_UNET) and timed > 0
    assert growing.latency(TINY_UNET) == first and len(clock.timed) == timed
    assert growing.latency(WIDER_UNET) > first
    assert len(clock.timed) == timed + len(read_table(path).entries) - count_blocks([TINY_UNET], OPTIONS)


def test_a_table_that_cannot_grow_names_what_it_lacks(cache: Path, tmp_path: Path) -> None:
    held = build_table([TINY_UNET], OPTIONS, Counting(), cache)
    growing = GrowingTable(tmp_path / "table.json", held, OPTIONS, None, cache)
    assert growing.latency(TINY_UNET) > 0
    with pytest.raises(UsageError, match=r"lacks .* blocks of layout 'wider'"):
        growing.latency(WIDER_UNET)
    with pytest.raises(UsageError, match="There is no lookup table"):
        GrowingTable(tmp_path / "table.json", None, OPTIONS, None, cache)
