from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.footprint import (
    ComponentFootprint,
    Footprint,
    activation_bytes,
    bundle_footprint,
    component_footprint,
    memory_limits,
    weight_bytes,
)
from sfmobile.export.options import ExportOptions
from sfmobile.inspect.estimate import phones
from sfmobile.mlpackage.graph import Graph
from sfmobile.mlpackage.program import load_program
from tests.cli.run import run
from tests.exported import SharedExports

GB = 10**9


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """x (64 values) -> a -> b, and c from both a and b: a and b and c are alive at once."""

    @mb.program(input_specs=[mb.TensorSpec((1, 64), ct.converters.mil.mil.types.fp16)], opset_version=ct.target.iOS17)
    def program(x):  # type: ignore[no-untyped-def]
        a = mb.relu(x=x, name="a")
        b = mb.linear(x=a, weight=np.ones((256, 64), np.float16), name="b")
        b = mb.reduce_sum(x=b, axes=[1], keep_dims=True, name="s")
        return mb.add(x=a, y=b, name="c")

    model = ct.convert(
        program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True, pass_pipeline=ct.PassPipeline.EMPTY
    )
    path = tmp_path_factory.mktemp("chain") / "chain.mlpackage"
    model.save(str(path))
    return Graph(load_program(path))


def test_activations_are_the_most_values_alive_at_once(chain: Graph) -> None:
    # While b is summed: a, 64 values, b, 256, and the sum. The input is done with.
    assert activation_bytes(chain) == 2 * (64 + 256 + 1)


def test_weights_are_counted_as_stored_and_as_decompressed(tiny_bundle: Bundle, tiny_palettized_bundle: Bundle) -> None:
    full, six = (
        weight_bytes(Graph(load_program(one.package("unet")))) for one in (tiny_bundle, tiny_palettized_bundle)
    )
    assert full[0] == full[1]
    # Norms and biases stay fp16, tables are 128 bytes each.
    assert 6 / 16 * full[0] < six[0] < 0.6 * full[0]
    assert six[1] == pytest.approx(full[1], rel=0.02)


def test_chunks_together_weigh_what_the_whole_weighs(
    tiny_exports: SharedExports, tiny_palettized_bundle: Bundle
) -> None:
    chunked = tiny_exports(ExportOptions(bits=6, guidance_batch=1, chunks=2))
    parts = [
        component_footprint(one.root, "unet", one.manifest.components["unet"])
        for one in (tiny_palettized_bundle, chunked)
    ]
    assert parts[0].compressed == parts[1].compressed and parts[0].decompressed == parts[1].decompressed
    assert sum(stored for stored, _ in parts[1].chunks) == parts[1].compressed and not parts[0].chunks
    whole, cut = (Footprint((part,), base=0, target="ios17") for part in parts)
    assert cut.package_at_a_time() < cut.one_at_a_time() <= whole.one_at_a_time() == whole.package_at_a_time()


def test_chunks_and_bits_that_would_fit_are_said() -> None:
    limit = memory_limits().of(8)
    whole = ComponentFootprint("unet", 1, 9 * GB, 9 * GB, 0, per_step=True)
    footprint = Footprint((whole,), base=0, target="ios17")
    assert phones.advice(footprint, limit).startswith("--bits 8 would fit")
    # Packages for iOS 16 hold palettized weights as fp16: only chunks help.
    older = replace(footprint, target="ios16")
    assert phones.advice(older, limit).startswith("--chunks 2 would fit")
    cut = replace(whole, chunks=((5 * GB, 5 * GB), (4 * GB, 4 * GB)))
    assert phones.verdict(replace(footprint, components=(cut,)), limit) == (
        "fits with the entitlement and one chunk in memory at a time"
    )


def test_peak_holds_every_components_weights_unless_they_are_freed() -> None:
    parts = tuple(
        ComponentFootprint(name, disk=1, compressed=compressed, decompressed=2 * compressed, activations=activations)  # type: ignore[arg-type]
        for name, compressed, activations in (("text_encoder", 100, 5), ("unet", 800, 60), ("decoder", 50, 200))
    )
    both = Footprint(parts, base=10, target="ios17")
    assert both.all_loaded() == 10 + 950 + 200
    assert both.one_at_a_time() == 10 + 860
    assert both.all_loaded(False) == 10 + 1900 + 200
    # On iOS 16 palettized weights are decompressed when they are loaded.
    assert replace(both, target="ios16").one_at_a_time() == 10 + 1660


def test_a_phone_without_a_measured_limit_takes_that_of_the_next_smaller_one() -> None:
    limits = memory_limits()
    assert limits.of(6).memory_gb == 6 and limits.of(7).memory_gb == 6 and limits.of(12).memory_gb == 8
    assert limits.of(2) == limits.limits[0]
    for limit in limits.limits:
        assert limit.default_bytes < limit.increased_bytes < limit.memory_gb * 2**30
        assert all(source in limits.sources for source in limit.sources)


@pytest.mark.parametrize(
    ("unet", "verdict", "killed_on"),
    [
        (1 * GB, "fits", 0),
        (3.0 * GB, "fits with the entitlement", 1),
        (5.5 * GB, "iOS would kill the app", 2),
        (9 * GB, "iOS would kill the app", 3),
    ],
)
def test_what_becomes_of_an_app_on_a_6_gb_phone(unet: float, verdict: str, killed_on: int) -> None:
    part = ComponentFootprint("unet", disk=1, compressed=int(unet), decompressed=int(unet), activations=0)
    footprint = Footprint((part,), base=memory_limits().base_bytes, target="ios17")
    assert phones.verdict(footprint, memory_limits().of(6)) == verdict
    warnings = list(phones.warnings(footprint))
    assert len(warnings) == killed_on
    assert all("iOS would kill the app" in warning and "use fewer bits" in warning for warning in warnings)


def test_the_export_says_what_a_phone_needs(tiny_checkpoint: Checkpoint, tmp_path: Path, capsys) -> None:
    root = tmp_path / "bundle"
    outcome = run(capsys, "export", tiny_checkpoint.root, "-o", root)
    assert outcome.code == 0
    said = outcome.out + outcome.err
    assert "On the phone, estimated" in said and "6 GB" in said and "fits" in said
    needed = bundle_footprint(Bundle.open(root)).all_loaded()
    assert needed > memory_limits().base_bytes
