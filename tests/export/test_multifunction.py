from __future__ import annotations

import shutil
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch

from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import Bundle
from sfmobile.errors import UsageError
from sfmobile.export.multifunction import merge_packages
from sfmobile.export.options import EVERY_STEP, SIZED, ExportOptions
from sfmobile.runtime.opening import open_runtime
from sfmobile.signal import psnr
from tests.exported import MULTIFUNCTION, SharedExports

SIZES = ((8, 8), (8, 16))


@pytest.fixture(scope="module")
def bundle(tiny_exports: SharedExports) -> Bundle:
    return tiny_exports(MULTIFUNCTION)


def alone(tiny_exports: SharedExports, size: tuple[int, int], batch: int) -> Bundle:
    """Packages of one function."""
    parts: tuple[ComponentName, ...] = ("unet", "decoder")
    return tiny_exports(ExportOptions(target="ios18", bits=4, latent_size=size, guidance_batch=batch, components=parts))


def weight_file(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/weights/weight.bin"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_each_function_computes_what_a_package_of_its_own_computes(
    tiny_exports: SharedExports, bundle: Bundle, size: tuple[int, int], batch: int
) -> None:
    single = alone(tiny_exports, size, batch)
    chosen = bundle.for_shapes(size, batch)
    torch.manual_seed(0)
    for name in ("unet", "decoder"):
        record = chosen.manifest.components[name]
        expected = single.manifest.components[name].inputs
        assert [item.shape for item in record.inputs] == [item.shape for item in expected]
        inputs = {item.name: torch.randn(item.shape).half().numpy() for item in record.inputs}
        found = [open_runtime("mil", one).load(name).predict(inputs) for one in (chosen, single)]
        for output in found[0]:
            np.testing.assert_array_equal(found[0][output], found[1][output])


def test_weights_are_stored_once(tiny_exports: SharedExports, bundle: Bundle) -> None:
    for name in ("unet", "decoder"):
        one_function = alone(tiny_exports, (8, 8), 2)
        merged, single = (weight_file(one.package(name)).stat().st_size for one in (bundle, one_function))
        # Even less than alone: equal norms of one function are stored once too.
        assert 0.9 * single < merged <= single


def test_the_package_is_what_coremltools_would_have_merged(tiny_exports: SharedExports, tmp_path: Path) -> None:
    parts = {}
    descriptor = ct.utils.MultiFunctionDescriptor()
    for batch in (2, 1):
        package = alone(tiny_exports, (8, 8), batch).package("unet")
        parts[f"batch_{batch}"] = Path(shutil.copytree(package, tmp_path / f"{batch}.mlpackage"))
        descriptor.add_function(str(parts[f"batch_{batch}"]), "main", f"batch_{batch}")
    descriptor.default_function_name = "batch_2"
    ct.utils.save_multifunction(descriptor, str(tmp_path / "theirs.mlpackage"))
    merge_packages(parts, tmp_path / "ours.mlpackage")
    ours, theirs = (
        ct.models.MLModel(str(tmp_path / f"{name}.mlpackage"), skip_model_load=True).get_spec()
        for name in ("ours", "theirs")
    )
    assert ours.specificationVersion == theirs.specificationVersion
    assert ours.description.defaultFunctionName == theirs.description.defaultFunctionName
    described = [
        {one.name: (list(one.input), list(one.output)) for one in spec.description.functions} for spec in (ours, theirs)
    ]
    assert described[0] == described[1]
    for name, function in theirs.mlProgram.functions.items():
        counts = [
            sorted(item.type for item in one.block_specializations[one.opset].operations if item.type != "const")
            for one in (function, ours.mlProgram.functions[name])
        ]
        assert counts[0] == counts[1]
    sizes = [weight_file(tmp_path / f"{name}.mlpackage").stat().st_size for name in ("ours", "theirs")]
    assert sizes[0] <= sizes[1]


def test_shapes_that_were_not_exported_are_refused_with_those_that_were(bundle: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no UNet for latents 16x16 and guidance batch 2; it was exported for 8x8 and"):
        bundle.for_shapes((16, 16))
    with pytest.raises(UsageError, match="guidance batch 1; it was exported for 8x8 and batch 2"):
        tiny_bundle.for_shapes(guidance_batch=1)


def test_the_decoder_has_one_function_unless_it_is_asked_for_more(tiny_exports: SharedExports, bundle: Bundle) -> None:
    """iOS 18 was seen to crash while loading a decoder of several."""
    options = ExportOptions(target="ios18", bits=4, multifunction=True, more_latent_sizes=SIZES[1:])
    assert options.functions(SIZED, SIZES[0]) == ((*SIZES[0], 2),)
    assert len(options.functions(EVERY_STEP, SIZES[0])) == 4
    plain = tiny_exports(options)
    assert plain.manifest.components["decoder"].functions == ()
    assert len(bundle.manifest.components["decoder"].functions) == 1
    # Guidance batches are the UNet's alone; a size that can't be decoded is refused with what helps.
    plain.for_shapes(guidance_batch=1)
    with pytest.raises(UsageError, match=r"decoder has no function for latents 8x16; .* --multifunction-decoder"):
        plain.for_shapes((8, 16))
    with pytest.raises(UsageError, match="for several latent sizes"):
        ExportOptions(target="ios18", multifunction=True, multifunction_decoder=True)


def test_both_guidance_batches_draw_one_picture(bundle: Bundle) -> None:
    from sfmobile.sampling.pipeline import Request, TextToImage

    images = []
    for batch in (2, 1):
        chosen = bundle.for_shapes((8, 16), batch)
        with TextToImage.of_bundle(chosen, open_runtime("mil", chosen)) as pipeline:
            (*_, last) = pipeline.steps(Request("a", steps=2))
            images.append(pipeline.decode(last.latents))
            assert len(last.calls) == (1 if batch == 2 else 2)
    assert images[0].shape == (1, 3, 16, 32)
    assert psnr(*images) > 100
