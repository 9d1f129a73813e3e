from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfmobile.bundle.choices import Target
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import ComponentName, ComponentRecord, GoldenRecord
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.bundle.store import BundleWriter
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import ComponentRecipe, LayerRecipe, Recipe
from sfmobile.errors import SfmobileError, UnavailableError, UsageError
from sfmobile.export import filling
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.export.phases import ExportObserver, Phase
from sfmobile.mlpackage.program import load_program
from sfmobile.nets.attention import AttentionForm
from sfmobile.runtime.mil.evaluate import Evaluator
from sfmobile.sampling.golden import GoldenRun
from sfmobile.signal import psnr
from tests.exported import SharedExports

ROOT = Path(__file__).parents[2]


class Log(ExportObserver):
    """What happened to each component, in order, and its phases."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.reused: list[str] = []
        self.phases: list[tuple[str | None, str]] = []
        self.units: dict[tuple[str | None, str], int] = {}
        self.totals: dict[tuple[str | None, str], int] = {}

    def phase(self, component: ComponentName | None, phase: Phase, total: int | None = None) -> None:
        self.phases.append((component, phase))
        if total is not None:
            self.totals[self.phases[-1]] = total

    def advance(self, units: int) -> None:
        self.units[self.phases[-1]] = self.units.get(self.phases[-1], 0) + units

    def finished(self, component: ComponentName, record: ComponentRecord, seconds: float, reused: bool) -> None:
        (self.reused if reused else self.built).append(component)


def export(checkpoint: Checkpoint, root: Path, **options: Any) -> Log:
    log = Log()
    export_bundle(checkpoint, root, ExportOptions(**options), log)
    return log


@pytest.fixture(scope="module")
def exported(tiny_exports: SharedExports) -> Path:
    return tiny_exports(ExportOptions(bits=6)).root


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


# Every form and target, and both of a form's lowerings; test_lowering.py converts all nine pairs.
PAIRS: list[tuple[Target, AttentionForm]] = [
    ("ios16", "original"),
    ("ios18", "original"),
    ("ios17", "split-einsum"),
    ("ios18", "split-einsum-v2"),
]


@pytest.mark.parametrize(("target", "form"), PAIRS)
def test_every_target_and_attention_form_computes_what_the_networks_compute(
    tiny_checkpoint: Checkpoint, tiny_exports: SharedExports, target: Target, form: AttentionForm
) -> None:
    bundle = tiny_exports(ExportOptions(target=target, attention=form, latent_size=(8, 16)))
    for name, record in bundle.manifest.components.items():
        torch.manual_seed(0)
        inputs = {
            item.name: torch.randint(0, 500, item.shape) if item.dtype == "int32" else torch.randn(item.shape).half()
            for item in record.inputs
        }
        with torch.no_grad():
            wide = [value.float() if value.is_floating_point() else value for value in inputs.values()]
            expected = tiny_checkpoint.load(name)(*wide).numpy()
        program = load_program(bundle.package(name))
        for precision, gate in (("fp32", 90), ("fp16", 60)):
            (found,) = Evaluator(program, precision)(inputs).values()
            assert psnr(expected, found) > gate, f"{name} in {precision} evaluation"


def test_manifest_holds_the_checkpoints_constants(tiny_checkpoint: Checkpoint, exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    assert manifest.sampler == tiny_checkpoint.sampler
    assert manifest.time_embedding == tiny_checkpoint.time_embedding
    assert (manifest.latents.height, manifest.latents.width) == tiny_checkpoint.latent_size
    assert manifest.latents.scaling_factor == tiny_checkpoint.autoencoder_layout.scaling_factor
    assert manifest.guidance.batch == 2 and manifest.guidance.default_scale == tiny_checkpoint.guidance_scale
    assert manifest.source.id == str(tiny_checkpoint.root)
    for name, record in manifest.components.items():
        assert record.source_sha256 == tiny_checkpoint.sha256(name)
        assert record.parameters == tiny_checkpoint.parameters(name)
        assert record.compression is not None and record.compression.bits == 6
        assert record.bytes == sum(file.bytes for file in record.files.values())
    assert (Bundle.open(exported).tokenizer_dir / "merges.txt").is_file()


def test_second_run_reuses_everything(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    log = export(tiny_checkpoint, bundle, bits=6)
    assert log.reused == list(TEXT_TO_IMAGE) and not log.built
    assert (bundle / "manifest.json").read_bytes() == before


def test_forced_run_builds_everything_anew_and_the_same(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    log = export(tiny_checkpoint, bundle, bits=6, force=True)
    assert log.built == list(TEXT_TO_IMAGE) and not log.reused
    assert (bundle / "manifest.json").read_bytes() == before


def test_only_what_an_option_changes_is_rebuilt(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    log = export(tiny_checkpoint, bundle, bits=6, guidance_batch=1)
    assert log.built == ["unet"] and log.reused == ["text_encoder", "decoder"]
    manifest = Bundle.open(bundle).manifest
    assert manifest.guidance.batch == 1 and manifest.components["unet"].inputs[0].shape[0] == 1


def test_damaged_component_is_rebuilt(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    weights = bundle / "Decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert export(tiny_checkpoint, bundle, bits=6).built == ["decoder"]
    Bundle.open(bundle)


def test_component_of_another_checkpoint_is_rebuilt(tiny_checkpoint: Checkpoint, bundle: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    root = Path(shutil.copytree(tiny_checkpoint.root, tmp_path / "changed"))
    path = root / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_in.bias"] += 1
    save_file(weights, path)
    assert export(Checkpoint.open(root), bundle, bits=6).built == ["decoder"]


def test_one_component_can_be_exported_again_beside_the_others(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    before = Bundle.open(bundle).manifest
    assert export(tiny_checkpoint, bundle, bits=4, components=("unet",)).built == ["unet"]
    after = Bundle.open(bundle).manifest
    assert after.components["unet"].compression.bits == 4
    for name in ("text_encoder", "decoder"):
        assert after.components[name] == before.components[name]


def test_bundle_may_hold_one_component_only(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    export(tiny_checkpoint, tmp_path / "bundle", components=("text_encoder",))
    assert set(Bundle.open(tmp_path / "bundle").manifest.components) == {"text_encoder"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latent_size": (16, 16)}, "for latents 8x8 but this export is for 16x16"),
        ({"target": "ios18"}, "for target ios17 but this export is for ios18"),
        ({"format": "onnx", "bits": None}, "for format mlprogram but this export is for onnx"),
    ],
)
def test_component_that_would_not_fit_the_others_is_refused(
    tiny_checkpoint: Checkpoint, bundle: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        export(tiny_checkpoint, bundle, **{"bits": 6, "components": ("unet",), **options})
    Bundle.open(bundle)


def test_component_beside_those_of_another_checkpoint_is_refused(
    tiny_checkpoint: Checkpoint, tiny_snapfusion_checkpoint: Checkpoint, bundle: Path
) -> None:
    with pytest.raises(UsageError, match="holds decoder of another checkpoint"):
        export(tiny_snapfusion_checkpoint, bundle, bits=6, components=("unet",))
    Bundle.open(bundle)


def test_progress_reaches_its_total_in_every_counted_phase(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    # Opened anew: a checkpoint hashes a component once.
    checkpoint = Checkpoint.open(tiny_checkpoint.root)
    log = export(checkpoint, tmp_path / "bundle", bits=4, components=("decoder",), force=True)
    assert log.units == log.totals
    # The source is hashed beside these, and waited for where that takes longer.
    phases = [phase for _, phase in log.phases if phase != "hash"]
    assert phases == ["trace", "convert", "palettize", "check", "checksum"]


def test_a_source_is_hashed_before_anything_else_only_where_a_component_may_be_reused(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    export(tiny_checkpoint, tmp_path / "bundle", bits=4, components=("decoder",))
    log = export(Checkpoint.open(tiny_checkpoint.root), tmp_path / "bundle", bits=4, components=("decoder",))
    assert [phase for _, phase in log.phases] == ["hash"] and log.reused == ["decoder"]
    assert log.units == log.totals


def test_recipe_sets_the_bits_of_each_layer(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    bits = {"mid_block.resnets.0.conv1": 2, "mid_block.resnets.1.conv1": 16}
    part = ComponentRecipe(layers={name: LayerRecipe(bits=count) for name, count in bits.items()})
    recipe = Recipe(default=LayerRecipe(bits=8), components={"decoder": part})
    export(tiny_checkpoint, tmp_path / "bundle", recipe=recipe, components=("decoder",))
    bundle = Bundle.open(tmp_path / "bundle")
    record = bundle.manifest.components["decoder"]
    assert record.compression is not None and record.compression.bits == 8
    assert record.compression.recipe_sha256 is not None
    constants = load_program(bundle.package("decoder")).constants
    distinct = {
        name: len(np.unique(constant.load()))
        for name, constant in constants.items()
        if name.startswith("mid_block_resnets") and "conv" in name and "weight" in name
    }
    assert distinct["mid_block_resnets_0_conv1_weight_palettized"] == 4
    assert distinct["mid_block_resnets_0_conv2_weight_palettized"] == 256
    assert distinct["mid_block_resnets_1_conv1_weight"] > 256


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.export.exporter import export_bundle
    from sfmobile.export.options import ExportOptions
    from sfmobile.export.phases import ExportObserver
    class Kill(ExportObserver):
        def phase(self, component, phase, total=None):
            if (component, phase) == ("unet", "checksum"):
                os.kill(os.getpid(), signal.SIGKILL)
    export_bundle(Checkpoint.open(Path(sys.argv[1])), Path(sys.argv[2]), ExportOptions(bits=6), Kill())
"""


def test_kill_in_the_middle_leaves_no_bundle_and_a_rerun_resumes(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED), str(tiny_checkpoint.root), str(target)]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    log = export(tiny_checkpoint, target, bits=6)
    # The UNet was written but not recorded: what has no record is never taken for whole.
    assert log.reused == ["text_encoder"] and log.built == ["unet", "decoder"]
    Bundle.open(target)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_second_export_into_the_same_directory_is_refused(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    with BundleWriter(bundle), pytest.raises(UnavailableError, match="Another export"):
        export(tiny_checkpoint, bundle, bits=4)
    assert Bundle.open(bundle).manifest.components["unet"].compression.bits == 6


def test_disk_that_fills_up_keeps_the_old_bundle_and_the_finished_components(
    tiny_checkpoint: Checkpoint, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = filling.fill

    def fills_up(outline: Any, path: Path, *rest: Any) -> Any:
        if path.name == "UNet.mlpackage":
            path.mkdir(parents=True)
            (path / "half").write_bytes(b"x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fill(outline, path, *rest)

    monkeypatch.setattr(filling, "fill", fills_up)
    with pytest.raises(UnavailableError, match=r"disk became full.*already finished are kept"):
        export(tiny_checkpoint, bundle, bits=4)
    assert Bundle.open(bundle).manifest.components["unet"].compression.bits == 6
    monkeypatch.undo()
    log = export(tiny_checkpoint, bundle, bits=4)
    assert log.reused == ["text_encoder"] and log.built == ["unet", "decoder"]


def test_too_small_a_disk_is_found_before_any_work(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**5))
    with pytest.raises(UnavailableError, match="GB are free"):
        export(tiny_checkpoint, tmp_path / "bundle", bits=6)
    assert list(tmp_path.iterdir()) == []


def golden_run(bundle: Bundle) -> GoldenRun:
    assert (bundle.root / "UNet.mlpackage").is_dir() and bundle.manifest.golden is None
    return GoldenRun("a", "", 1, 2, 7.5, {"latents": np.arange(3.0), "noise.seeds": np.array([1])})


def export_golden(checkpoint: Checkpoint, root: Path, golden: Any, **options: Any) -> GoldenRecord | None:
    return export_bundle(checkpoint, root, ExportOptions(**options), golden=golden).manifest.golden


def test_golden_vectors_are_recorded_in_the_bundle(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    record = export_golden(tiny_checkpoint, bundle, golden_run, bits=6)
    assert record is not None and (record.prompt, record.seed, record.steps) == ("a", 1, 2)
    np.testing.assert_array_equal(Bundle.open(bundle).golden("latents"), np.arange(3.0))


def test_golden_vectors_outlive_recompression_and_not_another_shape(tiny_checkpoint: Checkpoint, bundle: Path) -> None:
    def never(bundle: Bundle) -> GoldenRun:
        raise AssertionError("recorded again although the reference is the same")

    recorded = export_golden(tiny_checkpoint, bundle, golden_run, bits=6)
    assert export_golden(tiny_checkpoint, bundle, never, bits=4) == recorded
    np.testing.assert_array_equal(Bundle.open(bundle).golden("latents"), np.arange(3.0))
    with pytest.raises(AssertionError, match="recorded again"):
        export_golden(tiny_checkpoint, bundle, never, bits=4, guidance_batch=1)


def test_bundle_without_all_components_records_no_golden_vectors(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    record = export_golden(tiny_checkpoint, tmp_path / "bundle", golden_run, components=("decoder",))
    assert record is None


def test_metadata_and_source_name_reach_bundle_and_package(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    import coremltools as ct

    options = ExportOptions(
        components=("text_encoder",), author="A", licence="CC0", version="3", metadata={"colour": "red"}
    )
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", options, source_id="someone/model")
    assert bundle.manifest.source.id == "someone/model" and bundle.manifest.source.licence == "CC0"
    model = ct.models.MLModel(str(bundle.package("text_encoder")), skip_model_load=True)
    assert (model.author, model.license, model.version) == ("A", "CC0", "3")
    assert model.user_defined_metadata["colour"] == "red"


def test_errors_of_any_kind_leave_the_old_bundle_whole(
    tiny_checkpoint: Checkpoint, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "fill", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(tiny_checkpoint, bundle, bits=2)
    Bundle.open(bundle)
    with pytest.raises(SfmobileError):
        export(tiny_checkpoint, bundle, latent_size=(7, 7))
    Bundle.open(bundle)
