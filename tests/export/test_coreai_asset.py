"""Bundles of .aimodels, executed by Apple's runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.compress.recipe import LayerRecipe
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.export.component import setting_for
from sfmobile.export.coreai_asset import stored_as
from sfmobile.export.exported import ExportedBundle, Made, describe_weights, export_options
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import COREAI_TARGET, ExportOptions
from sfmobile.inspect.operations.package import inspect_package
from sfmobile.runtime.opening import choose_runtime, open_runtime
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.pipeline import Request, TextToImage
from tests.exported import SharedExports
from tests.runtime.mil.programs import psnr
from tests.runtime.test_torch import inputs_of

pytest.importorskip("coreai", reason="Apple's package is for Python 3.11 and later on x86-64 Linux and macOS 27")

from sfmobile.runtime.coreai import library
from sfmobile.runtime.coreai.asset import Asset
from sfmobile.runtime.coreai.runtime import CoreAIRuntime

OPTIONS = ExportOptions(format="coreai", target=COREAI_TARGET, multifunction=True)


@pytest.fixture
def bundle(tiny_exports: SharedExports) -> Bundle:
    """fp16 weights, a UNet of both guidance batches."""
    return tiny_exports(OPTIONS)


def text_of(path: Path) -> str:
    from coreai.authoring import AIModelAsset

    return str(AIModelAsset.load(path).program)


@pytest.mark.parametrize("name", TEXT_TO_IMAGE)
def test_the_asset_computes_wide_what_the_network_does(bundle: Bundle, tiny_checkpoint: Checkpoint, name: str) -> None:
    """The file that ships, its float16 widened, against torch in fp32 with the checkpoint's own weights."""
    inputs = inputs_of(bundle, name)  # type: ignore[arg-type]
    with (
        TorchRuntime(bundle, tiny_checkpoint).load(name) as torch,  # type: ignore[arg-type]
        CoreAIRuntime(bundle).load(name) as apple,  # type: ignore[arg-type]
    ):
        expected, found = torch.predict(inputs), apple.predict(inputs)
    for key, value in expected.items():
        assert psnr(found[key], value) > 95


def test_in_fp16_it_loses_what_halves_lose(bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    inputs = inputs_of(bundle, "decoder")
    with (
        TorchRuntime(bundle, tiny_checkpoint).load("decoder") as torch,
        CoreAIRuntime(bundle, "fp16").load("decoder") as apple,
    ):
        ((_, expected),) = torch.predict(inputs).items()
        ((_, found),) = apple.predict(inputs).items()
    assert 50 < psnr(found, expected) < 95


def test_a_picture_is_drawn_and_auto_means_apples_runtime(bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    assert choose_runtime("auto", bundle) == "coreai"
    pictures = []
    for runtime in (open_runtime("auto", bundle), TorchRuntime(bundle, tiny_checkpoint)):
        with TextToImage.of_bundle(bundle, runtime) as pipeline:
            pictures.append(pipeline.generate(Request("a red apple", steps=1)).pixels.astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_both_guidance_batches_share_their_weights(bundle: Bundle) -> None:
    record = bundle.manifest.components["unet"]
    assert len(record.functions) == 1
    assert record.bytes < 2.5 * record.parameters
    single = bundle.for_shapes(guidance_batch=1)
    inputs = inputs_of(bundle, "unet")
    with CoreAIRuntime(bundle).load("unet") as both, CoreAIRuntime(single).load("unet") as one:
        ((_, expected),) = both.predict(inputs).items()
        ((_, found),) = one.predict({key: value[1:] for key, value in inputs.items()}).items()
    assert psnr(found, expected[1:]) > 110


def test_norms_are_whole_and_upsampling_repeats(bundle: Bundle) -> None:
    """Whatever the compiler would cut a region at is one operation to it, and nothing is interpolated."""
    decoder, encoder, unet = (text_of(bundle.package(name)) for name in ("decoder", "text_encoder", "unet"))
    for text, composite in ((decoder, "group_norm"), (encoder, "layer_norm"), (unet, "group_norm")):
        main = text[text.index("coreai.graph @main") :]
        assert f'composite_declaration<"{composite}"' in text
        assert "rsqrt" not in main and "f32" not in main and "invoke" in main
    assert "interpolate" not in decoder + unet and "broadcast" in decoder


def test_it_is_labelled_experimental(bundle: Bundle) -> None:
    assert bundle.manifest.options["experimental"] is True
    table = ExportedBundle(bundle.root, bundle.manifest, {"unet": Made(1.0, False)}, 1.0).table()
    assert "experimental" in str(table.caption) and "never yet on a phone" in str(table.caption)


def test_odd_bits_take_the_next_width_and_say_so(tiny_exports: SharedExports, tiny_checkpoint: Checkpoint) -> None:
    """In a UNet in chunks, which is what phones have room for; what 3 bits lose is all that it loses."""
    options = ExportOptions(format="coreai", target=COREAI_TARGET, bits=3, components=("unet",), chunks=2)
    cut = tiny_exports(options)
    record = cut.manifest.components["unet"]
    assert [Path(chunk.package).suffix for chunk in record.chunks] == [".aimodel", ".aimodel"]
    assert describe_weights(record) == "3 bits, stored in 4"
    text = text_of(cut.root / record.chunks[0].package)
    assert "xui4>" in text and "xui8>" not in text
    inputs = inputs_of(cut, "unet")
    with TorchRuntime(cut, tiny_checkpoint).load("unet") as torch, CoreAIRuntime(cut).load("unet") as apple:
        ((_, expected),) = torch.predict(inputs).items()
        ((_, found),) = apple.predict(inputs).items()
    assert psnr(found, expected) > 15


@pytest.mark.parametrize(("bits", "width"), [(1, 2), (2, 2), (3, 4), (4, 4), (6, 6), (8, 8), (16, 16)])
def test_what_bits_are_stored_in(bits: int, width: int) -> None:
    assert stored_as(LayerRecipe(bits=bits)).bits == width


def test_options_that_an_aimodel_has_not(tiny_checkpoint: Checkpoint) -> None:
    assert export_options(format="coreai").target == COREAI_TARGET
    assert export_options().target == "ios17"
    with pytest.raises(UsageError, match="for iOS 27, whatever the target; leave out the target ios16"):
        export_options(format="coreai", target="ios16")
    with pytest.raises(UsageError, match="float32 is for --format onnx"):
        export_options(format="coreai", onnx_precision="float32")
    assert setting_for(tiny_checkpoint, OPTIONS).guidance_batch == 2


def test_without_apples_package_nothing_is_begun(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    library.require.cache_clear()
    with pytest.raises(UnavailableError, match=r"isn't installed .*sfmobile\[coreai\]"):
        export_bundle(tiny_checkpoint, tmp_path / "none", OPTIONS)
    assert not (tmp_path / "none").exists()
    library.require.cache_clear()


@pytest.fixture
def asset(bundle: Bundle, tmp_path: Path) -> Path:
    """One to be damaged."""
    path = tmp_path / "damaged.aimodel"
    shutil.copytree(bundle.package("decoder"), path)
    return path


@pytest.mark.parametrize("name", ["main.mlirb", "main.hash", "metadata.json"])
def test_an_asset_that_lacks_a_file_is_refused(asset: Path, name: str) -> None:
    (asset / name).unlink()
    with pytest.raises(ArtifactError, match=f"is no .aimodel: it has no {name}"):
        Asset(asset)


@pytest.mark.parametrize("damage", [lambda old: old[:-100], lambda old: b"", lambda old: b"x" + old])
def test_a_damaged_asset_is_refused_before_apples_runtime_ends_the_process(asset: Path, damage: object) -> None:
    program = asset / "main.mlirb"
    program.write_bytes(damage(program.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=r"main.mlirb' is not the file that main.hash beside it is of"):
        Asset(asset)


@pytest.mark.parametrize(("key", "value"), [("producer", "coreai-core 2.0"), ("assetVersion", "9.0")])
def test_an_asset_of_another_compiler_is_refused(asset: Path, key: str, value: str) -> None:
    metadata = json.loads((asset / "metadata.json").read_text())
    (asset / "metadata.json").write_text(json.dumps({**metadata, key: value}))
    with pytest.raises(UnavailableError, match=f"its {key} is '{value}', expected .*coreai-core 1.0.0b3") as found:
        Asset(asset)
    assert found.value.exit_code == 3


def test_metadata_that_is_no_json_is_refused(asset: Path) -> None:
    (asset / "metadata.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not JSON"):
        Asset(asset)


def test_another_runtime_names_apples(bundle: Bundle) -> None:
    for kind in ("mil", "onnx"):
        with pytest.raises(UsageError, match=r"is an \.aimodel, which .* can't execute; use --runtime coreai"):
            open_runtime(kind, bundle).load("decoder")  # type: ignore[arg-type]


def test_inspect_says_what_it_does_not_list(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"is an \.aimodel, whose operations aren't listed here"):
        inspect_package(bundle.package("decoder"))
