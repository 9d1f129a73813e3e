from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.chunk import ProgramGraph, find_cut, write_chunks
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.export.stored_weights import check_stored
from sfmobile.mlpackage.program_file import ProgramFile, names_read
from sfmobile.runtime.opening import open_runtime
from sfmobile.runtime.protocol import Arrays


@pytest.fixture(scope="module")
def graph(tiny_palettized_bundle: Bundle) -> ProgramGraph:
    return ProgramGraph(ProgramFile(tiny_palettized_bundle.package("unet")))


def unet_inputs(bundle: Bundle) -> Arrays:
    torch.manual_seed(3)
    record = bundle.manifest.components["unet"]
    return {item.name: torch.randn(item.shape).half().numpy() for item in record.inputs}


def crossing_names(graph: ProgramGraph, cut: int) -> set[str]:
    """What is made in front of operation `cut` and read from it on, the slow way."""
    read = {name for operation in graph.operations[cut:] for name in names_read(operation)}
    return {name for name, place in graph.made.items() if place < cut and name in read}


@pytest.mark.parametrize("chunks", [2, 3, 5])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_chunks_give_bit_for_bit_what_the_whole_package_gives(
    tiny_checkpoint: Checkpoint, tiny_palettized_bundle: Bundle, tmp_path: Path, chunks: int, precision: str
) -> None:
    options = ExportOptions(bits=6, guidance_batch=1, chunks=chunks)
    bundle = export_bundle(tiny_checkpoint, tmp_path / "chunked", options)
    record = Bundle.open(bundle.root).manifest.components["unet"]
    assert len(record.chunks) == chunks
    inputs = unet_inputs(bundle)
    outputs = []
    for one in (tiny_palettized_bundle, bundle):
        with open_runtime("mil", one, precision=precision).load("unet") as unet:  # type: ignore[arg-type]
            outputs.append(unet.predict(inputs)["model_output"])
    np.testing.assert_array_equal(*outputs)


def test_all_weights_ship_once_compressed_and_in_equal_parts(
    tiny_checkpoint: Checkpoint, tiny_palettized_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = export_bundle(tiny_checkpoint, tmp_path / "b", ExportOptions(bits=6, guidance_batch=1, chunks=2))
    packages = [bundle.root / chunk.package for chunk in bundle.manifest.components["unet"].chunks]
    sizes = [int(ProgramGraph(ProgramFile(package)).weight_bytes.sum()) for package in packages]
    whole = int(ProgramGraph(ProgramFile(tiny_palettized_bundle.package("unet"))).weight_bytes.sum())
    assert sum(sizes) == whole
    # Tiny networks have few places to cut: one weight is a large share of all.
    assert max(sizes) / whole < 0.7
    for package in packages:
        assert any(item.type == "constexpr_lut_to_dense" for item in ProgramFile(package).block().operations)


def test_a_chunk_cut_from_the_uncompressed_program_is_noticed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    from sfmobile.compress.recipe import LayerRecipe

    records = write_chunks(tiny_bundle.package("unet"), tmp_path / "UNet", 2)
    packages = [tmp_path / record.package for record in records]
    name = next(
        item.outputs[0].name
        for item in ProgramFile(packages[1]).block().operations
        if item.type == "const" and item.outputs[0].name.endswith("conv1_weight")
    )
    with pytest.raises(ArtifactError, match="expected 6 bits in 1 tables"):
        check_stored(packages, {name: LayerRecipe(bits=6)})


def test_bytes_that_cross_a_cut_are_those_of_the_values_read_behind_it(graph: ProgramGraph) -> None:
    crossing, _ = graph.crossing()
    for cut in range(len(graph.operations)):
        assert crossing[cut] == sum(graph.types[name].bytes for name in crossing_names(graph, cut))


def test_no_cut_of_equal_parts_hands_over_less(graph: ProgramGraph) -> None:
    crossing, possible = graph.crossing()
    cut = find_cut(graph, 2)
    before = np.concatenate([[0], np.cumsum(graph.weight_bytes)])
    half, place = before[-1] / 2, cut.starts[1]
    off = abs(before[place] - half)
    as_balanced = [
        int(crossing[other])
        for other in range(1, len(graph.operations))
        if possible[other] and abs(before[other] - half) <= off
    ]
    assert cut.handed_over == (crossing[place],) and crossing[place] == min(as_balanced)


@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_chunks_cover_the_program_in_order_and_each_holds_weights(graph: ProgramGraph, chunks: int) -> None:
    starts = find_cut(graph, chunks).starts
    assert starts[0] == 0 and starts[-1] == len(graph.operations)
    for start, stop in pairwise(starts):
        assert graph.weight_bytes[start:stop].sum() > 0


def test_more_chunks_than_weights_are_refused(graph: ProgramGraph) -> None:
    with pytest.raises(UsageError, match="can't be cut into 10000 chunks, each with weights; ask for fewer"):
        find_cut(graph, 10000)


def test_core_mls_own_reader_takes_every_chunk(tiny_palettized_bundle: Bundle, tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    records = write_chunks(tiny_palettized_bundle.package("unet"), tmp_path / "UNet", 2)
    for record in records:
        model = ct.models.MLModel(str(tmp_path / record.package), skip_model_load=True)
        program = load(
            model.get_spec(), specification_version=model.get_spec().specificationVersion,
            file_weights_dir=model.weights_dir,
        )  # fmt: skip
        assert [item.name for item in record.inputs] == list(program.functions["main"].inputs)
        assert {item.name for item in record.outputs} == {var.name for var in program.functions["main"].outputs}
