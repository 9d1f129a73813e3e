from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.weights import PARTS
from sfmobile.checkpoint.writer import write_checkpoint
from sfmobile.errors import ArtifactError, UnavailableError, UsageError
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.layout import AutoencoderLayout, UNetLayout
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.testing import SD15_SCHEDULER
from tests.checkpoint.test_directory import assert_equals
from tests.nets.oracles import randomise
from tests.tiny import (
    TINY_ASYMMETRIC_AUTOENCODER,
    TINY_AUTOENCODER,
    TINY_SNAPFUSION_UNET,
    TINY_TEXT_ENCODER,
    TINY_UNET,
)

TEXT_ENCODER = replace(TINY_TEXT_ENCODER, vocabulary=49408)


def nets(unet: UNetLayout = TINY_UNET, autoencoder: AutoencoderLayout = TINY_AUTOENCODER) -> dict[str, nn.Module]:
    made = {
        "text_encoder": TextEncoder(TEXT_ENCODER),
        "unet": UNet(unet),
        "decoder": Decoder(autoencoder),
        "encoder": Encoder(autoencoder),
    }
    for net in made.values():
        randomise(net)
    return made


def write(root: Path, made: dict[str, Any], **options: Any) -> None:
    from tests.tiny import TOKENIZER_DIR

    write_checkpoint(
        root, **made, scheduler=SD15_SCHEDULER, tokenizer_dir=TOKENIZER_DIR, latent_size=(8, 16), **options
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 1 << 18], ids=["whole", "sharded"])
def test_what_is_written_is_read_back(dtype: torch.dtype, shard_bytes: int, tmp_path: Path) -> None:
    made = nets()
    write(tmp_path / "c", made, dtype=dtype, max_shard_bytes=shard_bytes, guidance_scale=3.0)
    checkpoint = Checkpoint.open(tmp_path / "c")
    for part in PARTS:
        state = checkpoint.state_dict(part)
        assert all(torch.equal(state[key], value.to(dtype)) for key, value in made[part].state_dict().items())
    assert (checkpoint.unet_layout, checkpoint.autoencoder_layout) == (TINY_UNET, TINY_AUTOENCODER)
    assert checkpoint.text_encoder_layout == TEXT_ENCODER
    assert checkpoint.sampler == SD15_SCHEDULER
    assert (checkpoint.latent_size, checkpoint.guidance_scale) == ((8, 16), 3.0)
    shards = list((tmp_path / "c" / "unet").glob("*.safetensors"))
    header = 1 << 16
    assert all(shard.stat().st_size <= shard_bytes + header for shard in shards)
    assert (len(shards) == 1) == (shard_bytes == 1 << 30)


@pytest.mark.parametrize("shard_bytes", [1 << 30, 1 << 18], ids=["whole", "sharded"])
def test_diffusers_loads_what_is_written(shard_bytes: int, tmp_path: Path) -> None:
    write(tmp_path / "c", nets(), dtype=torch.float32, max_shard_bytes=shard_bytes)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "c", torch_dtype=torch.float32)
    assert_equals(Checkpoint.open(tmp_path / "c"), pipeline)
    assert pipeline.scheduler.config.beta_schedule == SD15_SCHEDULER.beta_schedule


def test_layouts_that_diffusers_does_not_have_are_kept_under_our_class_names(tmp_path: Path) -> None:
    made = nets(TINY_SNAPFUSION_UNET, TINY_ASYMMETRIC_AUTOENCODER)
    write(tmp_path / "c", made, dtype=torch.float32)
    checkpoint = Checkpoint.open(tmp_path / "c")
    assert checkpoint.unet_layout == TINY_SNAPFUSION_UNET
    assert checkpoint.autoencoder_layout == TINY_ASYMMETRIC_AUTOENCODER
    for part in PARTS:
        state = checkpoint.state_dict(part)
        assert all(torch.equal(state[key], value) for key, value in made[part].state_dict().items())
    index = json.loads((tmp_path / "c" / "model_index.json").read_text())
    assert (index["unet"], index["vae"]) == (["sfmobile", "SfmobileUNet"], ["sfmobile", "SfmobileAutoencoder"])


def test_weights_may_be_read_by_whoever_may_read_the_configs(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a", nets())
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_a_checkpoint_may_leave_the_encoder_out(tmp_path: Path) -> None:
    made = nets() | {"encoder": None}
    write(tmp_path / "c", made)
    checkpoint = Checkpoint.open(tmp_path / "c")
    assert checkpoint.parts == ("text_encoder", "unet", "decoder")
    checkpoint.load("decoder")
    with pytest.raises(ArtifactError, match=r"holds no encoder \(its parts: text_encoder, unet, decoder\)"):
        checkpoint.load("encoder")


def test_a_checkpoint_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    root = tmp_path / "c"
    write(root, nets(), max_shard_bytes=1 << 18)
    (root / "README.md").write_text("the model card")
    write(root, nets(TINY_SNAPFUSION_UNET, TINY_ASYMMETRIC_AUTOENCODER))
    assert Checkpoint.open(root).unet_layout == TINY_SNAPFUSION_UNET
    assert (root / "README.md").read_text() == "the model card"
    assert not list(root.rglob("*.index.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    abandoned = tmp_path / ".c.0123456789ab.partial" / "unet"
    abandoned.mkdir(parents=True)
    (abandoned / "config.json").write_text("{}")
    write(tmp_path / "c", nets())
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_can_be_rewritten_with_its_own_tokenizer(tmp_path: Path) -> None:
    root = tmp_path / "c"
    made = nets()
    write(root, made)
    vocab = (root / "tokenizer" / "vocab.json").read_bytes()
    write_checkpoint(root, **made, scheduler=SD15_SCHEDULER, tokenizer_dir=root / "tokenizer", latent_size=(8, 8))
    assert (root / "tokenizer" / "vocab.json").read_bytes() == vocab


def test_a_directory_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not a checkpoint"):
        write(tmp_path, nets())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture
def almost_full_disk() -> Iterator[None]:
    """Files above 100 kB can't be written: to the writer, a disk that becomes full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_old_checkpoint_whole_and_nothing_beside_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "c"
    write(root, nets())
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    made = nets(TINY_SNAPFUSION_UNET)
    request.getfixturevalue("almost_full_disk")
    with pytest.raises(UnavailableError, match=r"can't be written .* free some space or choose another place"):
        write(root, made)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_halves_of_different_autoencoders_are_refused(tmp_path: Path) -> None:
    made = nets() | {"encoder": Encoder(TINY_ASYMMETRIC_AUTOENCODER)}
    with pytest.raises(UsageError, match="different autoencoder layouts"):
        write(tmp_path / "c", made)
