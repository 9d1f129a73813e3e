"""An autoencoder that says `force_upcast` bears float16: SDXL's own reaches beyond 65,504 between its norms.

Random weights don't; here the convolutions that add to the residual stream on the way up (and down) are made so large
that the stream does, in the same places. The norms behind them take the factor away, so the picture stays a picture.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from sfmobile.checkpoint.config import UPCAST_SCALE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.verify.signal import psnr
from tests.checkpoint.diffusers_files import stable_diffusion_1
from tests.nets.oracles import agreement_db, seeded

LARGE = 2.0**19
FLOAT16_MAX = 65504.0
EXACT_DB, FP16_DB = 110.0, 50.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AutoencoderKL]:
    """A checkpoint whose autoencoder is as SDXL's is, and diffusers' network of it."""
    root = tmp_path_factory.mktemp("checkpoints") / "upcast"
    pipeline = stable_diffusion_1()
    vae = pipeline.vae
    vae.register_to_config(force_upcast=True)
    with torch.no_grad():
        for block in (*vae.decoder.up_blocks, *vae.encoder.down_blocks):
            for resnet in block.resnets:
                resnet.conv2.weight.mul_(LARGE)
                resnet.conv2.bias.mul_(LARGE)
    pipeline.save_pretrained(root)
    return root, vae.eval()


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return seeded(1, 4, 8, 8)


def largest_between_norms(vae: AutoencoderKL, latents: torch.Tensor) -> float:
    found: list[float] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: found.append(float(output.abs().max())))
        for block in vae.decoder.up_blocks
    ]
    with torch.no_grad():
        vae.decode(latents)
    for handle in handles:
        handle.remove()
    return max(found)


def test_it_is_diffusers_exactly(saved: tuple[Path, AutoencoderKL], latents: torch.Tensor) -> None:
    root, theirs = saved
    checkpoint = Checkpoint.open(root)
    assert checkpoint.autoencoder_layout.activation_scale == UPCAST_SCALE
    assert largest_between_norms(theirs, latents) > FLOAT16_MAX
    image = seeded(1, 3, 16, 16)
    with torch.no_grad():
        assert agreement_db(theirs.decode(latents).sample, checkpoint.load("decoder")(latents)) > EXACT_DB
        expected = theirs.encode(image).latent_dist.parameters
        assert agreement_db(expected, checkpoint.load("encoder")(image)) > EXACT_DB


def test_its_packages_are_finite_and_right_in_float16_where_the_unscaled_network_is_not(
    saved: tuple[Path, AutoencoderKL], latents: torch.Tensor, tmp_path: Path
) -> None:
    root, theirs = saved
    image = seeded(1, 3, 16, 16)
    with torch.no_grad():
        assert not theirs.half().decode(latents.half()).sample.isfinite().all()
        theirs.float()
        expected = {
            "decoder": theirs.decode(latents).sample.numpy(),
            "encoder": theirs.encode(image).latent_dist.parameters.numpy(),
        }
    options = ExportOptions(components=("decoder", "encoder"), latent_size=(8, 8))
    bundle = export_bundle(Checkpoint.open(root), tmp_path / "bundle", options)
    for name, value in (("decoder", latents), ("encoder", image)):
        with MilRuntime(bundle, "fp16").load(name) as component:
            (given,) = component.inputs
            (found,) = component.predict({given.name: value.half().numpy()}).values()
        assert np.isfinite(found).all()
        assert psnr(expected[name], found) > FP16_DB


def test_one_that_says_it_bears_float16_is_taken_as_it_is(saved: tuple[Path, AutoencoderKL]) -> None:
    """As the published fixed autoencoder says."""
    config = saved[0] / "vae" / "config.json"
    held = json.loads(config.read_text())
    try:
        config.write_text(json.dumps({**held, "force_upcast": False}))
        assert Checkpoint.open(saved[0]).autoencoder_layout.activation_scale == 1
    finally:
        config.write_text(json.dumps(held))
