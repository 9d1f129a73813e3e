"""A tiny Stable Diffusion XL from the checkpoint to a picture, on the exported packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.export.apple.form import refuse_misfits
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.opening import open_runtime
from sfmobile.sampling.given import Given
from sfmobile.sampling.pipeline import Pipeline, Request, TextToImage
from sfmobile.sampling.sizes import Sizes
from sfmobile.signal import psnr

REQUEST = Request("a red apple", "green", 3, 2)


def test_the_bundle_has_what_both_sides_need(tiny_xl_bundle: Bundle) -> None:
    manifest = tiny_xl_bundle.manifest
    assert tuple(manifest.components) == ("text_encoder", "text_encoder_2", "encoder", "unet", "decoder")
    assert manifest.can_draw and set(manifest.tokenizers) == {"tokenizer", "tokenizer_2"}
    assert manifest.tokenizers["tokenizer_2"].pad_token_id == 0 != manifest.tokenizers["tokenizer"].pad_token_id
    inputs = {tensor.name: tensor.shape for tensor in manifest.components["unet"].inputs}
    assert inputs["encoder_hidden_states"] == (2, 48, 1, 77) and inputs["added_embedding"] == (2, 72, 1, 1)
    outputs = {tensor.name: tensor.shape for tensor in manifest.components["text_encoder_2"].outputs}
    assert outputs == {"encoder_hidden_states": (1, 16, 1, 77), "pooled": (1, 24, 1, 1)}


def test_verify_passes_with_every_reference(tiny_xl_bundle: Bundle, tiny_xl_checkpoint: Checkpoint) -> None:
    verdict = sfmobile.verify(tiny_xl_bundle, source=tiny_xl_checkpoint, quick=True)
    assert verdict.passed, str(verdict)
    used = {record.name for record in verdict.references if record.skipped is None}
    assert {"nets", "golden", "diffusers"} <= used


@pytest.mark.parametrize("given", [False, True], ids=["from-text", "from-a-picture"])
def test_packages_draw_what_the_checkpoint_draws(
    given: bool, tiny_xl_bundle: Bundle, tiny_xl_checkpoint: Checkpoint
) -> None:
    request = REQUEST
    if given:
        pixels = np.random.default_rng(0).integers(0, 256, (*tiny_xl_bundle.manifest.latents.picture_size, 3), np.uint8)
        request = Request("a red apple", "", 3, 4, given=Given(pixels, strength=0.5))
    found = {}
    for name in ("mil", "torch"):
        runtime = open_runtime(name, tiny_xl_bundle, source=tiny_xl_checkpoint)
        with TextToImage.of_bundle(tiny_xl_bundle, runtime) as pipeline:
            found[name] = [step.latents for step in pipeline.steps(request)]
    assert all(psnr(*pair) >= 60 for pair in zip(found["torch"], found["mil"], strict=True))


def test_sizes_steer_the_picture_and_are_recorded(tiny_xl_bundle: Bundle, tiny_bundle: Bundle) -> None:
    with Pipeline(tiny_xl_bundle) as pipeline:
        plain = pipeline("a red apple", steps=1)
        same = pipeline("a red apple", steps=1, sizes=Sizes((16, 16), (0, 0), (16, 16)))
        small = pipeline("a red apple", steps=1, sizes=Sizes((4, 4), (3, 0)))
        assert np.array_equal(plain.pixels, same.pixels) and not np.array_equal(plain.pixels, small.pixels)
        assert (small.settings["original_size"], small.settings["crop"]) == ("4x4", "3x0")
        assert "crop" not in plain.settings
        with pytest.raises(UsageError, match=r"--original-size 0x4 is impossible"):
            pipeline("a red apple", sizes=Sizes((0, 4)))
    with Pipeline(tiny_bundle) as pipeline, pytest.raises(UsageError, match="isn't told the sizes of pictures"):
        pipeline("a red apple", sizes=Sizes((4, 4)))


def test_apples_form_is_refused(tiny_xl_checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="one text encoder, this model 2"):
        refuse_misfits(ExportOptions(), tiny_xl_checkpoint.pipeline)


def test_a_size_that_the_unet_can_not_halve_is_refused(tiny_xl_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both sides must be multiples of 2"):
        sfmobile.export(tiny_xl_checkpoint, tmp_path / "bundle", latent_size=(9, 8))
