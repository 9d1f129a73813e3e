"""A tiny autoencoder laid over a checkpoint: its decoder becomes a component that shows what steps predict."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.source import Source
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.exported import export_checkpoint
from sfmobile.export.options import ExportOptions
from sfmobile.inspect.estimate.times import calls_per_picture
from sfmobile.runtime.opening import open_runtime, open_source
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.pipeline import Request
from sfmobile.sampling.previews import Previews
from sfmobile.signal import psnr
from tests.nets.oracles import PARITY_DB, agreement_db, randomise, seeded
from tests.sampling.pipelines import reference_pipeline


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, diffusers.AutoencoderTiny]:
    net = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    randomise(net)
    root: Path = tmp_path_factory.mktemp("taesd")
    net.save_pretrained(root)
    return root, net


@pytest.fixture(scope="module")
def previewing(
    tiny_checkpoint: Checkpoint,
    taesd: tuple[Path, diffusers.AutoencoderTiny],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    checkpoint = open_checkpoint(tiny_checkpoint.root, preview=taesd[0])
    root = tmp_path_factory.mktemp("previewing") / "bundle"
    made = export_checkpoint(checkpoint, root, ExportOptions(components=("preview",)), golden=False)
    return Bundle.open(made.root)


def test_its_decoder_is_a_component_that_decodes_as_in_diffusers(
    tiny_checkpoint: Checkpoint, taesd: tuple[Path, diffusers.AutoencoderTiny], previewing: Bundle
) -> None:
    path, theirs = taesd
    checkpoint = open_checkpoint(tiny_checkpoint.root, preview=path)
    assert checkpoint.pipeline.components == ("text_encoder", "unet", "preview", "decoder")
    height, width = checkpoint.latent_size
    latents = seeded(1, 4, height, width)
    with torch.no_grad():
        expected = theirs.decode(latents).sample
        assert agreement_db(expected, checkpoint.load("preview")(latents)) >= PARITY_DB
    assert checkpoint.sha256("decoder") == tiny_checkpoint.sha256("decoder")
    bundle = previewing
    record = bundle.manifest.components["preview"]
    assert (record.runs, calls_per_picture(bundle.manifest, "preview")) == ("per_preview", 1)
    with open_runtime("mil", bundle).load("preview") as program:
        found = program.predict({"latents": latents.numpy()})["image"]
    assert psnr(expected.numpy(), found) >= 60
    # Found again by the manifest, file and all.
    assert Source.recorded(bundle.manifest).preview == path
    assert open_source(bundle).sha256("preview") == record.source_sha256


def test_a_component_is_exported_beside_it_only_with_the_same_option(
    tiny_checkpoint: Checkpoint, taesd: tuple[Path, diffusers.AutoencoderTiny], previewing: Bundle
) -> None:
    options = ExportOptions(components=("decoder",))
    with pytest.raises(UsageError, match=f"holds preview of an export with --preview {taesd[0]}; give that again, or"):
        export_checkpoint(Checkpoint.open(tiny_checkpoint.root), previewing.root, options, golden=False)


def test_what_a_step_predicts_is_shown_by_it(
    tiny_checkpoint: Checkpoint, taesd: tuple[Path, diffusers.AutoencoderTiny]
) -> None:
    path, theirs = taesd
    request = Request("a", steps=2, guidance_scale=1.0)
    with reference_pipeline(open_checkpoint(tiny_checkpoint.root, preview=path)) as pipeline:
        previews = Previews(pipeline.decode_tiny, pipeline.manifest.latents, pipeline.settings(request), "tiny")
        pipeline.generate(request, previews)
        predicted = [step.denoised for step in pipeline.steps(request)]
    with torch.no_grad():
        expected = [to_pixels(theirs.decode(torch.from_numpy(latents)).sample.numpy()) for latents in predicted]
    for shown, picture in zip(previews.pictures, expected, strict=True):
        assert psnr(picture, shown.pixels, peak=255) >= 60


def test_what_can_not_preview_is_refused(
    tiny_checkpoint: Checkpoint, taesd: tuple[Path, diffusers.AutoencoderTiny], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="a large autoencoder; give that with --vae"):
        open_checkpoint(tiny_checkpoint.root, preview=tiny_checkpoint.root / "vae")
    path, _ = taesd
    for key, value, problem in (
        ("latent_channels", 16, "its latents have 16 channels and the UNet's 4"),
        ("scaling_factor", 0.5, "'scaling_factor' is 0.5; expected 1"),
    ):
        other = tmp_path / key
        other.mkdir()
        config = json.loads((path / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, key: value}))
        (other / "diffusion_pytorch_model.safetensors").symlink_to(path / "diffusion_pytorch_model.safetensors")
        with pytest.raises(ArtifactError, match=problem):
            open_checkpoint(tiny_checkpoint.root, preview=other)
