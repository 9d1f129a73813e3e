"""ControlNets as components of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.exporter import export_bundle
from sfmobile.export.footprint import bundle_footprint
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.choices import RuntimeChoice
from sfmobile.sampling.control import Control
from sfmobile.sampling.pipeline import Request
from sfmobile.signal import psnr
from tests.controlnets import write_controlnet
from tests.log import Log


def test_it_draws_what_the_networks_draw(tiny_controlled_bundle: Bundle) -> None:
    picture = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    request = Request("a red apple", seed=3, steps=2, controls=(Control("edges", picture, 0.8),))
    latents, drawn = {}, {}
    for runtime in ("mil", "torch"):
        # The torch runtime finds the ControlNet where the manifest says that it was.
        with sfmobile.Pipeline(tiny_controlled_bundle, runtime=runtime) as pipeline:
            latents[runtime] = [step.latents for step in pipeline.steps(request)]
            drawn[runtime] = pipeline.draw(replace(request, controls=())).picture
    assert all(psnr(*pair) > 60 for pair in zip(latents["torch"], latents["mil"], strict=True))
    settings = pipeline.settings(request)
    assert (settings["control_edges_scale"], settings["control_edges_end"]) == (0.8, 1.0)
    assert "control_edges_scale" not in drawn["mil"].settings


def test_verify_proves_it_as_any_component(tiny_controlled_bundle: Bundle) -> None:
    # diffusers' reading is held at every step by tests/sampling/test_control.py; of a picture of 16x16, one value that
    # is rounded the other way is 77 dB.
    verdict = sfmobile.verify(tiny_controlled_bundle, reference=("nets", "golden"))
    assert verdict.passed, verdict.failures()
    assert "control_edges" in str(verdict)


def test_the_summary_counts_the_unet_and_its_controlnets_together(tiny_controlled_bundle: Bundle) -> None:
    footprint = bundle_footprint(tiny_controlled_bundle)
    parts = {part.name: part for part in footprint.components}
    both = sum(parts[name].compressed for name in ("unet", "control_edges"))
    busiest = max(parts[name].activations for name in ("unet", "control_edges"))
    assert footprint.one_at_a_time() == footprint.base + both + busiest


def test_the_unet_is_built_anew_when_it_comes_under_control(
    tiny_checkpoint: Checkpoint, tiny_controlled_bundle: Bundle
) -> None:
    (record,) = tiny_controlled_bundle.manifest.source.overlays
    assert (record.kind, record.component) == ("controlnet", "control_edges")
    unet, plain = tiny_controlled_bundle.manifest.components["unet"], tiny_checkpoint.sha256("unet")
    assert unet.source_sha256 != plain
    names = [tensor.name for tensor in unet.inputs]
    assert names[3:] == [f"residual_{index}" for index in range(5)]


def test_several_functions_are_refused(
    tiny_controlled_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_controlnet(tmp_path / "edges")
    checkpoint = open_checkpoint(tiny_checkpoint.root, control=[f"edges={tmp_path / 'edges'}"])
    with pytest.raises(UsageError, match="A UNet under ControlNets has one function"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(target="ios18", multifunction=True))


@pytest.mark.parametrize(
    ("options", "runtime", "gate"),
    [
        (ExportOptions(prompt_chunks=2, guidance_batch=1, chunks=2), "mil", 90),
        (ExportOptions(format="onnx"), "onnx", 60),
    ],
    ids=["in chunks, of a long prompt", "onnx"],
)
def test_it_is_exported_in_every_form_that_a_unet_is(
    options: ExportOptions, runtime: RuntimeChoice, gate: float, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_controlnet(tmp_path / "edges")
    checkpoint = open_checkpoint(tiny_checkpoint.root, control=[f"edges={tmp_path / 'edges'}"])
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    picture = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    request = Request("a red apple " * 40, seed=3, steps=2, controls=(Control("edges", picture, 0.8),))
    latents = {}
    for kind in ("torch", runtime):
        with sfmobile.Pipeline(bundle, runtime=kind) as pipeline:
            latents[kind] = [step.latents for step in pipeline.steps(request)]
    assert all(psnr(*pair) > gate for pair in zip(latents["torch"], latents[runtime], strict=True))


def test_pictures_are_read_brought_to_the_size_and_told(tiny_controlled_bundle: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((40, 20, 3), 255, np.uint8)).save(tmp_path / "edges.png")
    log = Log()
    with sfmobile.Pipeline(tiny_controlled_bundle, runtime="mil") as pipeline:
        (control,) = pipeline.controls([f"edges={tmp_path / 'edges.png'}:0.5"], 0.2, 0.8, log)
        assert (control.scale, control.start, control.end) == (0.5, 0.2, 0.8)
        np.testing.assert_array_equal(control.picture, np.ones((1, 3, 16, 16), np.float32))
        assert log.notes
        for text, said in (
            ("edges", "names no picture"),
            (f"edges={tmp_path / 'edges.png'}:much", "'much' is no scale"),
            (f"pose={tmp_path / 'edges.png'}", "no ControlNet 'pose'"),
            (f"edges={tmp_path / 'edges.png'}:inf", "the scale is inf; expected a finite number"),
        ):
            with pytest.raises(UsageError, match=said):
                pipeline.controls([text])
        with pytest.raises(ArtifactError, match=r"absent\.png"):
            pipeline.controls([f"edges={tmp_path / 'absent.png'}"])
