from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.chunk import crossing, find_cut, weight_bytes, write_chunks
from sfmobile.export.options import ExportOptions
from sfmobile.export.stored_weights import check_stored
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.package import Package
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.opening import open_runtime
from sfmobile.runtime.protocol import Arrays
from tests.exported import SharedExports


@pytest.fixture(scope="module")
def graph(tiny_palettized_bundle: Bundle) -> Graph:
    return Graph(load_program(tiny_palettized_bundle.package("unet")))


def unet_inputs(bundle: Bundle) -> Arrays:
    torch.manual_seed(3)
    record = bundle.manifest.components["unet"]
    return {item.name: torch.randn(item.shape).half().numpy() for item in record.inputs}


def crossing_names(graph: Graph, cut: int) -> set[str]:
    """What is made in front of operation `cut` and read from it on, the slow way."""
    made, behind = graph.program.operations[:cut], graph.program.operations[cut:]
    read = {name for operation in behind for name in operation.reads()}
    return {name for operation in made for name in operation.makes() if name in read}


@pytest.mark.parametrize("chunks", [2, 3, 5])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_chunks_give_bit_for_bit_what_the_whole_package_gives(
    tiny_exports: SharedExports, tiny_palettized_bundle: Bundle, chunks: int, precision: str
) -> None:
    bundle = tiny_exports(ExportOptions(bits=6, guidance_batch=1, chunks=chunks))
    record = Bundle.open(bundle.root).manifest.components["unet"]
    assert len(record.chunks) == chunks
    inputs = unet_inputs(bundle)
    outputs = []
    for one in (tiny_palettized_bundle, bundle):
        with open_runtime("mil", one, precision=precision).load("unet") as unet:  # type: ignore[arg-type]
            outputs.append(unet.predict(inputs)["model_output"])
    np.testing.assert_array_equal(*outputs)


def test_all_weights_ship_once_compressed_and_in_equal_parts(
    tiny_exports: SharedExports, tiny_palettized_bundle: Bundle
) -> None:
    bundle = tiny_exports(ExportOptions(bits=6, guidance_batch=1, chunks=2))
    packages = [bundle.root / chunk.package for chunk in bundle.manifest.components["unet"].chunks]
    sizes = [int(weight_bytes(Graph(load_program(package))).sum()) for package in packages]
    whole = int(weight_bytes(Graph(load_program(tiny_palettized_bundle.package("unet")))).sum())
    assert sum(sizes) == whole
    # Tiny networks have few places to cut: one weight is a large share of all.
    assert max(sizes) / whole < 0.7
    for package in packages:
        assert any(item.type == "constexpr_lut_to_dense" for item in Package(package).block().operations)


def test_a_chunk_cut_from_the_uncompressed_program_is_noticed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    from sfmobile.compress.recipe import LayerRecipe

    records = write_chunks(tiny_bundle.package("unet"), tmp_path / "UNet", 2)
    packages = [tmp_path / record.package for record in records]
    name = next(
        item.outputs[0].name
        for item in Package(packages[1]).block().operations
        if item.type == "const" and item.outputs[0].name.endswith("conv1_weight")
    )
    with pytest.raises(ArtifactError, match="expected 6 bits in 1 tables"):
        check_stored(packages, {name: LayerRecipe(bits=6)})


def test_bytes_that_cross_a_cut_are_those_of_the_values_read_behind_it(graph: Graph) -> None:
    handed_over, _ = crossing(graph)
    for cut in range(len(graph.program.operations)):
        assert handed_over[cut] == sum(graph.types[name].bytes for name in crossing_names(graph, cut))


def test_no_cut_of_equal_parts_hands_over_less(graph: Graph) -> None:
    handed_over, possible = crossing(graph)
    cut = find_cut(graph, 2)
    before = np.concatenate([[0], np.cumsum(weight_bytes(graph))])
    half, place = before[-1] / 2, cut.starts[1]
    off = abs(before[place] - half)
    as_balanced = [
        int(handed_over[other])
        for other in range(1, len(graph.program.operations))
        if possible[other] and abs(before[other] - half) <= off
    ]
    assert cut.handed_over == (handed_over[place],) and handed_over[place] == min(as_balanced)


@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_chunks_cover_the_program_in_order_and_each_holds_weights(graph: Graph, chunks: int) -> None:
    starts = find_cut(graph, chunks).starts
    assert starts[0] == 0 and starts[-1] == len(graph.program.operations)
    for start, stop in pairwise(starts):
        assert weight_bytes(graph)[start:stop].sum() > 0


def test_more_chunks_than_weights_are_refused(graph: Graph) -> None:
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


def test_a_package_is_cut_into_the_same_bytes_in_every_process(tiny_palettized_bundle: Bundle, tmp_path: Path) -> None:
    """Protobuf's maps have another order in each process: nothing written may follow it."""
    package = tiny_palettized_bundle.package("unet")
    script = "import sys; from pathlib import Path; from sfmobile.export.chunk import write_chunks; "
    script += f"write_chunks(Path({str(package)!r}), Path(sys.argv[1]), 2); assert 'coremltools' not in sys.modules"
    contents = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name / "UNet")], check=True)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1] and len(contents[0]) == 6
