from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import ArtifactError
from sfmobile.export.weights import load_network
from sfmobile.testing import write_synthetic_checkpoint
from tests.tiny import TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET

DECODER_FILE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def wide(tmp_path: Path, request: pytest.FixtureRequest) -> Checkpoint:
    """A checkpoint whose weights are stored as float32 or bfloat16."""
    write_synthetic_checkpoint(
        tmp_path / "wide",
        unet_layout=TINY_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_AUTOENCODER,
        dtype=request.param,
    )
    return Checkpoint.open(tmp_path / "wide")


def damaged(checkpoint: Checkpoint, value: float) -> Checkpoint:
    path = checkpoint.root / DECODER_FILE
    weights = load_file(path)
    weights["decoder.conv_in.weight"][3, 2, 1, 0] = value
    save_file(weights, path)
    return Checkpoint.open(checkpoint.root)


def test_float16_weights_stay_where_they_are(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    net = load_network(tiny_checkpoint, "unet", tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
    for name, weight in tiny_checkpoint.state_dict("unet").items():
        torch.testing.assert_close(net.state_dict()[name], weight, rtol=0, atol=0)


def test_buffers_are_of_the_weights_precision(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    net = load_network(tiny_checkpoint, "text_encoder", tmp_path)
    assert {buffer.dtype for buffer in net.buffers()} == {torch.float16}


@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_precisions_are_cast_into_a_mapped_file(wide: Checkpoint, tmp_path: Path, dtype: torch.dtype) -> None:
    net = load_network(wide, "unet", tmp_path / "scratch", dtype)
    stored = wide.state_dict("unet")
    for name, weight in net.state_dict().items():
        assert weight.dtype == dtype
        torch.testing.assert_close(weight, stored[name].to(dtype), rtol=0, atol=0)
    cast = sum(weight.numel() for weight in stored.values() if weight.dtype != dtype)
    files = list((tmp_path / "scratch").glob("*"))
    assert sum(file.stat().st_size for file in files) == cast * dtype.itemsize


@pytest.mark.parametrize("wide", [torch.float32], indirect=True)
@pytest.mark.parametrize("value", [70_000.0, -65_520.0])
def test_weight_beyond_float16_is_named_with_its_size(wide: Checkpoint, tmp_path: Path, value: float) -> None:
    with pytest.raises(
        ArtifactError, match=rf"'conv_in.weight' of decoder reaches {abs(value):g}, beyond float16's 65504"
    ):
        load_network(damaged(wide, value), "decoder", tmp_path)


@pytest.mark.parametrize("wide", [torch.float32, torch.float16, torch.bfloat16], indirect=True)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weight_that_is_not_finite_is_named(wide: Checkpoint, tmp_path: Path, value: float) -> None:
    with pytest.raises(ArtifactError, match=r"'conv_in.weight' of decoder holds infinite values or NaN"):
        load_network(damaged(wide, value), "decoder", tmp_path)


@pytest.mark.parametrize("wide", [torch.float32], indirect=True)
def test_largest_float16_value_passes(wide: Checkpoint, tmp_path: Path) -> None:
    net = load_network(damaged(wide, 65_504.0), "decoder", tmp_path)
    assert net.state_dict()["conv_in.weight"].max() == 65_504.0
