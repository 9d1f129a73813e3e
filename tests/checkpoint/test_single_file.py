from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.source import Source
from sfmobile.errors import ArtifactError, SfmobileError, UsageError
from sfmobile.sampling.tokenizer import Tokenizer
from sfmobile.verify.diffusers_reference import _Theirs, why_not
from tests.checkpoint.ldm_files import Tensors, pipeline_1, pipeline_2, single_file, write
from tests.checkpoint.test_directory import assert_equals


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFMOBILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("single")
    return {
        "1": write(single_file(pipeline_1(), False), folder / "one.safetensors"),
        "2": write(single_file(pipeline_2(), True), folder / "two.safetensors"),
    }


@pytest.fixture(scope="module")
def first() -> Tensors:
    return single_file(pipeline_1(), False)


def test_averaged_weights_are_those_that_diffusers_takes_for_them(first: Tensors, tmp_path: Path) -> None:
    plain = [name for name in first if name.startswith("model.diffusion_model.")]
    averages = {f"model_ema.{name.partition('.')[2].replace('.', '')}": first[name] * 0.5 for name in plain}
    assert len(averages) > 100
    path = write({**first, **averages}, tmp_path / "both.safetensors")
    config = {**pipeline_1().unet.config, "class_embed_type": None}
    expected = convert_ldm_unet_checkpoint({**first, **averages}, config, extract_ema=True)
    found = open_checkpoint(path, ema=True)
    assert not any("EMA" in note for note in found.notes)
    for name, tensor in found.state_dict("unet").items():
        assert torch.equal(tensor.flatten(), expected[name].flatten()), name
    assert open_checkpoint(found.source).sha256("unet") == found.sha256("unet") != open_checkpoint(path).sha256("unet")
    with pytest.raises(ArtifactError, match=r"doesn't hold the averaged \(EMA\) weights of its UNet"):
        open_checkpoint(write(first, tmp_path / "plain.safetensors"), ema=True)
    with pytest.raises(UsageError, match="--ema is for a single file"):
        open_checkpoint("glyph", ema=True)


@pytest.mark.parametrize("kind", ["1", "2"])
def test_the_files_of_these_tests_are_what_diffusers_takes_them_for(kind: str) -> None:
    pipeline = pipeline_1() if kind == "1" else pipeline_2()
    tensors = single_file(pipeline, kind == "2")
    net: UNet2DConditionModel = pipeline.unet
    found = convert_ldm_unet_checkpoint(dict(tensors), {**net.config, "class_embed_type": None})
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())
    vae: AutoencoderKL = pipeline.vae
    found = convert_ldm_vae_checkpoint(dict(tensors), vae.config)
    assert found.keys() == vae.state_dict().keys()
    assert all(torch.equal(found[name].reshape(tensor.shape), tensor) for name, tensor in vae.state_dict().items())


def test_a_stable_diffusion_1_gives_what_its_pipeline_gives(files: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(files["1"])
    assert_equals(checkpoint, pipeline_1())
    assert (checkpoint.name, checkpoint.sampler.prediction_type) == ("one", "epsilon")
    assert checkpoint.latent_size == (64, 64) and checkpoint.tokenizer.pad_token_id == 49407
    assert "EMA" in checkpoint.notes[-1]
    assert Checkpoint.open(files["1"]).sha256("unet") == checkpoint.sha256("unet")


def test_a_stable_diffusion_2_gives_what_its_pipeline_gives(files: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(files["2"], prediction="v_prediction")
    assert_equals(checkpoint, pipeline_2())
    assert checkpoint.sampler.prediction_type == "v_prediction"
    assert checkpoint.latent_size == (96, 96)
    # It pads with "!", which is a token wherever it stands.
    assert Tokenizer(checkpoint.tokenizer_dir, checkpoint.tokenizer).encode("hi!")[0, 1:5].tolist() == [
        1883,
        0,
        49407,
        0,
    ]
    assert open_checkpoint(Source(str(files["2"]), prediction="epsilon")).latent_size == (64, 64)


@pytest.mark.parametrize("kind", ["1", "2"])
def test_the_reference_of_verify_reads_the_file_itself(kind: str, files: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(files[kind], prediction="v_prediction" if kind == "2" else None)
    assert why_not(checkpoint) is None
    theirs = _Theirs(checkpoint).pipeline
    pipeline = pipeline_1() if kind == "1" else pipeline_2()
    for name in ("unet", "vae", "text_encoder"):
        found, expected = (getattr(one, name).state_dict() for one in (theirs, pipeline))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key].reshape(expected[key].shape), expected[key]) for key in expected)


@pytest.mark.parametrize(("text", "expected"), [("v", "v_prediction"), ("eps", "epsilon"), (None, "epsilon")])
def test_what_it_predicts_is_read_from_the_settings_beside_it(
    text: str | None, expected: str, files: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "two.safetensors"
    file.symlink_to(files["2"])
    line = "" if text is None else f'\n    parameterization: "{text}"'
    (tmp_path / "two.yaml").write_text(f"model:\n  params:{line}\n    linear_start: 0.00085\n")
    assert open_checkpoint(file).sampler.prediction_type == expected


def test_what_it_predicts_is_never_guessed(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"some predict the noise and some v, .*; add --prediction epsilon"):
        open_checkpoint(files["2"])
    file = tmp_path / "two.safetensors"
    file.symlink_to(files["2"])
    (tmp_path / "two.yaml").write_text("parameterization: x0\n")
    with pytest.raises(ArtifactError, match="'parameterization' is 'x0'; expected v or eps"):
        open_checkpoint(file)


UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def alone(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: torch.ones(2, 2)}


def beside(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: torch.ones(2, 2)}


DAMAGE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no text encoder": (without(CLIP), "holds no text encoder"),
    "no autoencoder": (without(VAE), "holds no autoencoder .*; name one with --vae"),
    "no weight": (without(f"{UNET}out.2.weight"), "lacks 'model.diffusion_model.out.2.weight'"),
    "a norm less": (without(f"{UNET}out.0.bias"), "lacks 'conv_norm_out.bias'"),
    "no downsampling": (without(f"{UNET}input_blocks.2"), "the blocks of its UNet aren't those of"),
    "a block beyond all bounds": (
        lambda tensors: {
            **without(f"{UNET}input_blocks.2")(tensors),
            f"{UNET}input_blocks.1000000000.0.op.weight": torch.ones(1),
        },
        "the blocks of its UNet aren't those of",
    ),
    "a layer number left out": (without(f"{CLIP}text_model.encoder.layers.0."), "aren't numbered from 0 on"),
    "a weight too many": (beside(f"{UNET}lora.x"), "holds 'model.diffusion_model.lora.x', which a Stable Diffusion 1"),
    "a vector for a matrix": (
        lambda tensors: {**tensors, f"{UNET}input_blocks.0.0.weight": torch.ones(3)},
        r"has shape \(3,\); it is damaged",
    ),
    "the refiner": (beside("conditioner.embedders.0.model.x"), "is the refiner of Stable Diffusion XL, which sfmobile"),
    "Stable Diffusion 3": (alone(f"{UNET}joint_blocks.0.x"), "is Stable Diffusion 3"),
    "Flux": (alone("double_blocks.0.img_attn.x"), "is not a whole checkpoint: it is Flux"),
    "a LoRA": (alone("lora_unet_x.lora_up.weight"), "it is a LoRA; lay it over a checkpoint with --lora"),
    "diffusers' LoRA": (alone("unet.x.lora_A.weight"), "it is a LoRA; lay it over a checkpoint with --lora"),
    "an embedding": (alone("emb_params"), "it is a textual inversion; lay it over a checkpoint with --embedding"),
    "an autoencoder": (alone("decoder.conv_in.weight"), "it is an autoencoder; lay it over a checkpoint with --vae"),
    "a component": (alone("conv_in.weight"), "is one component of a diffusers-format checkpoint"),
    "anything": (alone("x"), "holds no UNet of Stable Diffusion"),
    "nothing": (lambda tensors: {}, "holds no UNet of Stable Diffusion"),
    "whole numbers": (
        lambda tensors: {**tensors, f"{UNET}out.2.bias": torch.ones(4, dtype=torch.int32)},
        "is stored as I32; expected F16, BF16 or F32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_or_another_is_named_for_what_it_is(damage: str, first: Tensors, tmp_path: Path) -> None:
    change, sentence = DAMAGE[damage]
    file = write(change(first), tmp_path / "a.safetensors")
    with pytest.raises(SfmobileError, match=sentence) as refusal:
        open_checkpoint(file).state_dict("unet")
    assert "\n" not in str(refusal.value) and "a.safetensors" in str(refusal.value)


@pytest.mark.parametrize(
    ("start", "name", "sentence"),
    [
        (b"PK\x03\x04rest", "a.ckpt", "is a pickle, which can run code .* convert it"),
        (b"\x80\x02}q\x00.", "a.safetensors", "is a pickle, which can run code"),
        (b"GGUF\x03\x00", "a.gguf", "is a GGUF file, whose weights are quantised in blocks"),
        (b"x", "a.safetensors", "is not a whole safetensors file .*1 bytes found"),
        (b"", "a.safetensors", "is not a whole safetensors file .*0 bytes found"),
    ],
)
def test_another_format_is_named(start: bytes, name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(ArtifactError, match=sentence):
        open_checkpoint(tmp_path / name)


def test_options_of_single_files_are_refused_for_others(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="--prediction is for a single file"):
        open_checkpoint(tiny_checkpoint.root, prediction="epsilon")


def test_weights_of_8_bits_are_widened(first: Tensors, tmp_path: Path) -> None:
    name = f"{UNET}input_blocks.0.0.weight"
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        narrow = first[name].to(dtype)
        file = write({**first, name: narrow}, tmp_path / f"{dtype}.safetensors")
        found = open_checkpoint(file).state_dict("unet")["conv_in.weight"]
        assert found.dtype == torch.float16 and torch.equal(found, narrow.half())
