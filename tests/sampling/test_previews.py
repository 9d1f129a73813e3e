from __future__ import annotations

import numpy as np
import pytest

from sfmobile.bundle.manifest import LatentsRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.previews import Previews, fit_linear, patches
from tests.sampling.pipelines import reference_pipeline

RECORD = LatentsRecord(channels=4, height=8, width=12, pixels_per_latent=2, scaling_factor=1.0)


def affine(latents: np.ndarray) -> np.ndarray:
    """A decoder that is affine: (1, 4, H, W) to (1, 3, 2 H, 2 W)."""
    weight = np.array([[0.1, -0.05, 0], [0.05, 0.1, 0.02], [0, 0, 0.1], [-0.1, 0.03, 0.01]], np.float32)
    image = np.einsum("nchw,cd->ndhw", latents, weight) + np.array([0.1, -0.2, 0.05], np.float32)[None, :, None, None]
    return image.repeat(2, 2).repeat(2, 3)


def test_an_affine_decoder_is_recovered() -> None:
    shown = patches(RECORD)
    assert shown.shape == (1, 4, 8, 12)
    preview = fit_linear(shown, affine(shown), RECORD.pixels_per_latent)
    others = np.random.default_rng(1).standard_normal((1, 4, 8, 12)).astype(np.float32)
    np.testing.assert_allclose(preview.image(others), affine(others)[:, :, ::2, ::2], atol=1e-6)


def test_patches_are_constant_and_of_the_seed() -> None:
    """As in Swift, which fits the same factors: the first numbers of seed 0, 8 patches a side at most."""
    import torch

    first = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(0)).numpy()
    shown = patches(LatentsRecord(channels=4, height=16, width=16, pixels_per_latent=8, scaling_factor=1.0))
    np.testing.assert_array_equal(shown[0], first.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("kind", ["linear", "decoder"])
def test_a_run_is_the_same_when_it_is_watched(tiny_checkpoint: Checkpoint, kind) -> None:
    request = Request("a", steps=3, guidance_scale=1.0, seed=2)
    with reference_pipeline(tiny_checkpoint) as pipeline:
        alone = pipeline.generate(request)
        previews = Previews(pipeline.decode, pipeline.manifest.latents, pipeline.settings(request), kind)
        watched = pipeline.generate(request, previews)
        steps = list(pipeline.steps(request))
        decoded = [to_pixels(pipeline.decode(step.denoised)) for step in steps]
    np.testing.assert_array_equal(watched.pixels, alone.pixels)
    assert [one.settings["preview_of_step"] for one in previews.pictures] == [1, 2, 3]
    for preview, expected in zip(previews.pictures, decoded, strict=True):
        if kind == "decoder":
            np.testing.assert_array_equal(preview.pixels, expected)
        else:
            assert preview.pixels.shape == (8, 8, 3)
