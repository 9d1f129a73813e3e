from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.source import Source
from sfmobile.errors import ArtifactError
from tests.checkpoint.diffusers_files import stable_diffusion_1
from tests.checkpoint.ldm_files import ldm_vae, pipeline_1, single_file, write
from tests.nets.oracles import PARITY_DB, agreement_db, seeded


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFMOBILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vae") / "base"
    stable_diffusion_1().save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def other():
    return stable_diffusion_1(seed=7, heads=8, width=64, groups=32).vae.eval()


@pytest.mark.parametrize("form", ["directory", "vae/ of a checkpoint", "LDM", "LDM with its prefix"])
def test_another_autoencoder_decodes_as_it_does_in_diffusers(form: str, base: Path, other, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    if form.startswith("LDM"):
        prefix = "first_stage_model." if form.endswith("prefix") else ""
        weights = ldm_vae(other.state_dict(), prefix=prefix)
        save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, path)
    else:
        path = tmp_path / "other"
        other.save_pretrained(path / "vae" if form.startswith("vae/") else path)
    checkpoint = open_checkpoint(base, vae=path)
    latents = seeded(1, 4, 8, 8)
    with torch.no_grad():
        assert agreement_db(other.decode(latents).sample, checkpoint.load("decoder")(latents)) >= PARITY_DB
        moments = other.encode(seeded(1, 3, 16, 16)).latent_dist.parameters
        assert agreement_db(moments, checkpoint.load("encoder")(seeded(1, 3, 16, 16))) >= PARITY_DB
    before = Checkpoint.open(base)
    assert checkpoint.sha256("unet") == before.sha256("unet")
    assert checkpoint.sha256("decoder") != before.sha256("decoder")
    (record,) = checkpoint.laid.records
    assert (record.kind, record.path) == ("vae", str(path))
    assert open_checkpoint(checkpoint.source).sha256("decoder") == checkpoint.sha256("decoder")
    with pytest.raises(ArtifactError, match="is not the file that the bundle was exported with"):
        open_checkpoint(Source(str(base), vae=path, vae_sha256="0" * 64))


@pytest.mark.parametrize("upcast", [True, False])
def test_what_a_single_file_does_not_say_is_the_checkpoints_own(
    upcast: bool, base: Path, other, tmp_path: Path
) -> None:
    """Of LDM's names an autoencoder of Stable Diffusion XL looks as one of 1 does: only the base tells them apart."""
    root = shutil.copytree(base, tmp_path / "base")
    config = root / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.13025, "force_upcast": upcast}))
    write(ldm_vae(other.state_dict()), tmp_path / "other.safetensors")
    checkpoint = open_checkpoint(root, vae=tmp_path / "other.safetensors")
    layout = checkpoint.autoencoder_layout
    assert layout.scaling_factor == 0.13025 and (layout.activation_scale < 1) == upcast
    latents = seeded(1, 4, 8, 8)
    with torch.no_grad():
        assert agreement_db(other.decode(latents).sample, checkpoint.load("decoder")(latents)) >= PARITY_DB


def test_a_single_file_without_one_takes_another(other, tmp_path: Path) -> None:
    tensors = {k: v for k, v in single_file(pipeline_1(), False).items() if not k.startswith("first_stage_model.")}
    file = write(tensors, tmp_path / "a.safetensors")
    other.save_pretrained(tmp_path / "other")
    checkpoint = open_checkpoint(file, vae=tmp_path / "other")
    with torch.no_grad():
        latents = seeded(1, 4, 8, 8)
        assert agreement_db(other.decode(latents).sample, checkpoint.load("decoder")(latents)) >= PARITY_DB


def test_what_is_no_autoencoder_for_this_model_is_refused(base: Path, other, tmp_path: Path) -> None:
    def refused(path: Path, sentence: str) -> None:
        with pytest.raises(ArtifactError, match=sentence) as refusal:
            open_checkpoint(base, vae=path).state_dict("decoder")
        assert "\n" not in str(refusal.value)

    refused(tmp_path, "holds no autoencoder: expected config.json in it, or in vae/")
    refused(tmp_path / "absent", "doesn't exist; expected an autoencoder")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "holds no autoencoder .'decoder.conv_in.weight' is missing")
    save_file({"decoder.mid_block.x": torch.ones(1)}, tmp_path / "y.safetensors")
    refused(tmp_path / "y.safetensors", "has diffusers' names, whose config.json belongs beside it and is missing")
    folder = tmp_path / "other"
    other.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "latent_channels": 16}))
    refused(folder, "its latents have 16 channels and the UNet's 4; it is for another model")
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    refused(folder, "found VQModel")
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "conv_out" not in name}, weights)
    refused(folder, "lacks 'decoder.conv_out.bias'|lacks 'decoder.conv_out.weight'")
