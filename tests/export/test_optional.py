"""Optional components: in a bundle when they are asked for, and kept while the bundle is built on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.choices import Target
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import RUNNING_ORDER, TEXT_TO_IMAGE
from sfmobile.checkpoint.description import OPTIONAL, PIPELINES
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.export.component import component_specs
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.export.plan import plan_export
from sfmobile.inspect.estimate.times import calls_per_picture
from sfmobile.mlpackage.program import load_program
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.signal import psnr
from tests.exported import SharedExports


def test_every_component_has_its_place_in_the_order_and_its_spec(tiny_checkpoint: Checkpoint) -> None:
    every = tiny_checkpoint.with_components(tiny_checkpoint.description.optional)
    assert tuple(component_specs(every)) == every.description.components
    needed = {name for kind in PIPELINES.values() for name in kind.needs}
    assert needed | set(TEXT_TO_IMAGE) | set(OPTIONAL) <= set(RUNNING_ORDER)


@pytest.mark.parametrize("target", ["ios16", "ios17", "ios18"])
def test_the_encoder_computes_what_the_network_computes(
    tiny_checkpoint: Checkpoint, tiny_exports: SharedExports, target: Target
) -> None:
    bundle = tiny_exports(ExportOptions(target=target, components=("encoder",)))
    (image,) = bundle.manifest.components["encoder"].inputs
    picture = np.random.default_rng(0).uniform(-1, 1, image.shape).astype(np.float32)
    with torch.no_grad():
        expected = tiny_checkpoint.load("encoder")(torch.from_numpy(picture)).numpy()
    program = load_program(bundle.package("encoder"))
    padded = [operation for operation in program.operations if operation.kind == "pad"]
    # The asymmetric padding of each halving of the picture, in the program's own type.
    assert len(padded) == 1 and all(type_.data_type == "fp16" for _, type_ in padded[0].outputs)
    for precision, gate in (("fp32", 90), ("fp16", 60)):
        (found,) = Evaluator(program, precision)({"image": torch.from_numpy(picture)}).values()
        assert psnr(expected, found) > gate, f"{precision} evaluation"


def test_it_is_exported_on_request_alone(tiny_checkpoint: Checkpoint) -> None:
    assert [part.name for part in plan_export(tiny_checkpoint, ExportOptions()).components] == list(TEXT_TO_IMAGE)
    plan = plan_export(tiny_checkpoint, ExportOptions(extras=("encoder",)))
    assert [part.name for part in plan.components] == ["text_encoder", "encoder", "unet", "decoder"]


def test_it_is_added_to_a_bundle_kept_in_it_and_left_out_again(
    tiny_checkpoint: Checkpoint, tiny_encoding_bundle: Bundle, tmp_path: Path
) -> None:
    added = tiny_encoding_bundle.manifest
    root = Path(shutil.copytree(tiny_encoding_bundle.root, tmp_path / "bundle"))
    assert added.pipeline.components == ("text_encoder", "encoder", "unet", "decoder") == tuple(added.components)
    # A picture of a prompt alone doesn't call it.
    assert added.can_draw and calls_per_picture(added, "encoder") == 0
    kept = export_bundle(tiny_checkpoint, root, ExportOptions(components=("text_encoder",))).manifest
    whole = export_bundle(tiny_checkpoint, root, ExportOptions(extras=("encoder",))).manifest
    assert added.components == kept.components == whole.components
    plain = export_bundle(tiny_checkpoint, root, ExportOptions()).manifest
    assert plain.can_draw and plain.pipeline.components == TEXT_TO_IMAGE == tuple(plain.components)


def test_one_that_the_checkpoint_has_not_is_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no component 'controller'; .*, and optional: encoder"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(extras=("controller",)))
