from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.safetensors_file import SafetensorsFile
from sfmobile.checkpoint.weights import PARTS, PartName
from sfmobile.errors import ArtifactError
from tests.checkpoint.diffusers_files import stable_diffusion_1, stable_diffusion_2
from tests.nets.oracles import PARITY_DB, agreement_db, as_context, seeded, time_embedding


def assert_equals(checkpoint: Checkpoint, pipeline: Any) -> None:
    """Every network of `checkpoint`, in fp32, gives what `pipeline`'s gives."""
    with torch.no_grad():
        ids = torch.arange(77)[None]
        states = pipeline.text_encoder(ids).last_hidden_state
        assert agreement_db(as_context(states), checkpoint.load("text_encoder")(ids)) >= PARITY_DB
        latents, times = seeded(1, 4, 8, 8), torch.tensor([981])
        sinusoid = time_embedding(times, checkpoint.time_embedding.dimension)[:, :, None, None]
        expected = pipeline.unet(latents, times, states).sample
        assert agreement_db(expected, checkpoint.load("unet")(latents, sinusoid, as_context(states))) >= PARITY_DB
        assert agreement_db(pipeline.vae.decode(latents).sample, checkpoint.load("decoder")(latents)) >= PARITY_DB
        image = seeded(1, 3, 16, 16)
        moments = pipeline.vae.encode(image).latent_dist.parameters
        assert agreement_db(moments, checkpoint.load("encoder")(image)) >= PARITY_DB


@pytest.mark.parametrize("make", [stable_diffusion_1, stable_diffusion_2], ids=["sd1", "sd2"])
@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
def test_what_diffusers_saves_gives_the_same_results_here(make: Callable, shards: bool, tmp_path: Path) -> None:
    pipeline = make()
    pipeline.save_pretrained(tmp_path, **({"max_shard_size": "200KB"} if shards else {}))
    assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists() == shards
    assert_equals(Checkpoint.open(tmp_path), pipeline)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sd1")
    stable_diffusion_1().save_pretrained(root)
    return root


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "checkpoint"))


def rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path)


def test_names_of_old_files_are_understood(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for new_name, old_name in old.items():
            weights = {name.replace(f".{new_name}.", f".{old_name}."): value for name, value in weights.items()}
        return weights

    def old_text_encoder(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        prefixed = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}
        return prefixed | {"text_model.embeddings.position_ids": torch.arange(77)[None]}

    rewrite_weights(root / "vae" / "diffusion_pytorch_model.safetensors", old_attention)
    rewrite_weights(root / "text_encoder" / "model.safetensors", old_text_encoder)
    before, after = Checkpoint.open(sd1), Checkpoint.open(root)
    assert [after.sha256(part) for part in PARTS] == [before.sha256(part) for part in PARTS]


def test_the_text_encoder_is_found_without_its_prefix(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    rewrite_weights(
        root / "text_encoder" / "model.safetensors",
        lambda weights: {name.removeprefix("text_model."): value for name, value in weights.items()},
    )
    assert Checkpoint.open(root).sha256("text_encoder") == Checkpoint.open(sd1).sha256("text_encoder")


def test_a_half_precision_variant_is_read_where_it_stands_alone(tmp_path: Path) -> None:
    pipeline = stable_diffusion_1().to(torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16")
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    checkpoint = Checkpoint.open(tmp_path)
    assert {tensor.dtype for tensor in checkpoint.state_dict("unet").values()} == {torch.float16}
    assert_equals(checkpoint, pipeline.to(torch.float32))


def test_constants_are_read_from_the_configs(sd1: Path) -> None:
    checkpoint = Checkpoint.open(sd1)
    assert checkpoint.latent_size == (8, 8)
    assert checkpoint.time_embedding.dimension == 32
    assert checkpoint.tokenizer.bos_token_id == 49406
    assert (checkpoint.sampler.beta_schedule, checkpoint.sampler.steps_offset) == ("scaled_linear", 1)
    assert checkpoint.guidance_scale == 7.5
    assert checkpoint.name == sd1.name


def test_the_licence_is_the_model_cards(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    assert Checkpoint.open(root).licence == ""
    (root / "README.md").write_text("---\ntags: [a]\nlicense: creativeml-openrail-m\n---\n# A model\nlicense: no\n")
    assert Checkpoint.open(root).licence == "creativeml-openrail-m"


@pytest.mark.parametrize("part", PARTS)
def test_loading_gives_the_stored_weights_as_fp32_or_as_they_are(tiny_checkpoint: Checkpoint, part: PartName) -> None:
    stored = tiny_checkpoint.state_dict(part)
    for dtype, expected in ((None, torch.float16), (torch.bfloat16, torch.bfloat16), ("float32", torch.float32)):
        net = tiny_checkpoint.load(part, dtype)
        state = net.state_dict()
        assert not net.training
        assert all(torch.equal(state[key], tensor.to(expected)) for key, tensor in stored.items())
        assert not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))


def test_weights_stay_in_the_file_until_they_are_used(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    file = root / "unet" / "diffusion_pytorch_model.safetensors"
    net = Checkpoint.open(root).load("unet", None)
    content = bytearray(file.read_bytes())
    content[-64 * 1024 :] = bytes(64 * 1024)
    with file.open("r+b") as stream:
        stream.write(content)
    # Read after the file was changed, so they weren't in memory before.
    zeros = sum(int((parameter == 0).sum()) for parameter in net.parameters())
    assert zeros >= 16 * 1024


def test_the_hash_is_of_the_content_of_one_part(sd1: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(sd1)
    sharded, changed = tmp_path / "sharded", copied(sd1, tmp_path)
    stable_diffusion_1().save_pretrained(sharded, max_shard_size="100KB")
    assert {part: Checkpoint.open(sharded).sha256(part) for part in PARTS} == {p: before.sha256(p) for p in PARTS}

    def nudge(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["encoder.conv_in.bias"][0] += 1e-3
        return weights

    rewrite_weights(changed / "vae" / "diffusion_pytorch_model.safetensors", nudge)
    after = Checkpoint.open(changed)
    assert after.sha256("encoder") != before.sha256("encoder")
    assert after.sha256("decoder") == before.sha256("decoder")


def test_the_hash_sees_the_config_too(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    rewrite_json(root / "unet" / "config.json", attention_head_dim=4)
    assert Checkpoint.open(root).sha256("unet") != Checkpoint.open(sd1).sha256("unet")


def drop(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    del weights["conv_in.weight"], weights["conv_in.bias"]
    return weights


def add(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"lora.down": torch.zeros(2)}


def widen(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"conv_in.weight": torch.zeros(32, 9, 3, 3)}


def integers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"conv_in.weight": torch.zeros(32, 4, 3, 3, dtype=torch.int8)}


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


UNET = "unet/diffusion_pytorch_model.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (
        lambda r: (r / "model_index.json").unlink(),
        "not a diffusers-format checkpoint: model_index.json is m",
    ),
    "index is no JSON": (
        lambda r: (r / "model_index.json").write_text("{"),
        "model_index.json' is not JSON .line 1: .*copy",
    ),
    "index is a list": (
        lambda r: (r / "model_index.json").write_text("[]"),
        "at its top: it should be an object, found a list",
    ),
    "no config": (
        lambda r: (r / "unet" / "config.json").unlink(),
        "unet/config.json' doesn't exist: .*; copy",
    ),
    "no weights": (lambda r: (r / UNET).unlink(), "model.safetensors is missing, and so is an index"),
    "truncated weights": (lambda r: cut(r / UNET), r"model.safetensors is not a whole safetensors file .* bytes found"),
    "empty weights": (lambda r: (r / UNET).write_bytes(b""), "is not a whole safetensors file"),
    "a pickle": (
        lambda r: (r / UNET).rename(r / "unet" / "diffusion_pytorch_model.bin"),
        "unet holds diffusion_pytorch_model.bin, a pickle, which can run code .* convert the checkpoint",
    ),
    "no tokenizer": (lambda r: shutil.rmtree(r / "tokenizer"), "tokenizer is missing, the tokenizer of text_encoder"),
    "another tokenizer": (
        lambda r: rewrite_json(r / "tokenizer" / "tokenizer.json", model={"type": "Unigram"}),
        "tokenizer.json holds no byte-pair model",
    ),
    "a vocabulary too large": (
        lambda r: rewrite_json(r / "text_encoder" / "config.json", vocab_size=600),
        "token ids up to 49407 and the text encoder knows 600",
    ),
    "no scheduler": (lambda r: shutil.rmtree(r / "scheduler"), "scheduler_config.json' doesn't exist"),
    "a flow-matching scheduler": (
        lambda r: rewrite_json(r / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "FlowMatchEulerDiscreteScheduler walks another diffusion process than Stable Diffusion's; expected",
    ),
    "a model of flows": (
        lambda r: rewrite_json(r / "scheduler/scheduler_config.json", prediction_type="flow_prediction"),
        "at prediction_type: Input should be 'epsilon', 'v_prediction' or 'sample', found 'flow_prediction'",
    ),
    "an unknown block": (
        lambda r: rewrite_json(r / "unet/config.json", down_block_types=["KDownBlock2D", "DownBlock2D"]),
        "unet/config.json' is not .* at down_block_types.0: .*, found 'KDownBlock2D'; use a checkpoint of one",
    ),
    "too few blocks": (
        lambda r: rewrite_json(r / "unet/config.json", down_block_types=["DownBlock2D"]),
        "'down_block_types' has 1 entries and 'block_out_channels' 2",
    ),
    "deep transformers": (
        lambda r: rewrite_json(r / "unet/config.json", transformer_layers_per_block=[1, 10]),
        r"lacks 'mid_block.attentions.0.transformer_blocks.1.norm1.weight' and \d+ more; config and weights",
    ),
    "another activation": (
        lambda r: rewrite_json(r / "unet/config.json", act_fn="gelu"),
        "'act_fn' is 'gelu'; expected 'silu'",
    ),
    "another network": (
        lambda r: rewrite_json(r / "unet/config.json", _class_name="SD3Transformer2DModel"),
        "expected a network of class UNet2DConditionModel, found SD3Transformer2DModel",
    ),
    "groups that don't divide": (
        lambda r: rewrite_json(r / "unet/config.json", norm_num_groups=7),
        "unet/config.json: .*can't be split into 7 normalisation groups",
    ),
    "another text encoder": (
        lambda r: rewrite_json(r / "text_encoder/config.json", model_type="t5"),
        "expected a CLIP text encoder .* found 't5'",
    ),
    "a text encoder of another width": (
        lambda r: rewrite_json(r / "text_encoder/config.json", hidden_size=48),
        "'cross_attention_dim' is 24 and the text encoder gives 48",
    ),
    "an inpainting UNet": (
        lambda r: rewrite_json(r / "unet/config.json", in_channels=9),
        "StableDiffusionInpaintPipeline",
    ),
    "an autoencoder of other latents": (
        lambda r: rewrite_json(r / "vae/config.json", latent_channels=16),
        "'out_channels' is 4 and the autoencoder's latents have 16 channels",
    ),
    "an autoencoder with a shift": (
        lambda r: rewrite_json(r / "vae/config.json", shift_factor=0.1),
        "'shift_factor' is 0.1; expected None",
    ),
    "integer weights": (
        lambda r: rewrite_weights(r / UNET, integers),
        "'conv_in.weight' is stored as I8; expected F16, BF16 or F32",
    ),
    "a weight missing": (lambda r: rewrite_weights(r / UNET, drop), "lacks 'conv_in.weight' and 1 more"),
    "a weight too many": (lambda r: rewrite_weights(r / UNET, add), "holds unknown 'lora.down'"),
    "a weight of another shape": (
        lambda r: rewrite_weights(r / UNET, widen),
        r"'conv_in.weight' has shape \(32, 9, 3, 3\); config.json asks for \(32, 4, 3, 3\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_sentence(damage: str, sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    harm, sentence = DAMAGE[damage]
    harm(root)
    with pytest.raises(ArtifactError, match=sentence) as refusal:
        Checkpoint.open(root).load("unet")
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


SHARD_DAMAGE: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "missing": (lambda folder, shard: (folder / shard).unlink(), "is missing, one of [0-9]+ shards that"),
    "truncated": (lambda folder, shard: cut(folder / shard), "is not a whole safetensors file"),
    "emptied of a weight": (
        lambda folder, shard: save_file({"other": torch.zeros(1)}, folder / shard),
        "lacks '.+' and [0-9]+ more that its index lists",
    ),
}


@pytest.mark.parametrize("damage", SHARD_DAMAGE)
def test_a_damaged_shard_is_named(damage: str, tmp_path: Path) -> None:
    stable_diffusion_1().save_pretrained(tmp_path, max_shard_size="500KB")
    shard = sorted((tmp_path / "unet").glob("*-00002-of-*.safetensors"))[0].name
    harm, sentence = SHARD_DAMAGE[damage]
    harm(tmp_path / "unet", shard)
    with pytest.raises(ArtifactError, match=f"unet/{shard} {sentence}"):
        Checkpoint.open(tmp_path)


def test_a_shard_that_this_user_may_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.safe_open", denied)
    with pytest.raises(
        ArtifactError, match=r"a\.safetensors can't be read \(Permission denied\); let this user read it"
    ):
        SafetensorsFile(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("../../secrets.safetensors", "expected the name of a file beside the index"),
        ("/etc/passwd", "expected the name of a file beside the index"),
        ("weights.bin", "expected a .safetensors file, never a pickle"),
    ],
)
def test_an_index_can_not_point_elsewhere(target: str, sentence: str, sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    index = {"weight_map": {"conv_in.weight": target}}
    (root / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=sentence):
        Checkpoint.open(root)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "doesn't exist; expected a diffusers-format directory"),
        ("model.safetensors", "is not a whole safetensors file"),
        ("model.ckpt", "is not a whole safetensors file"),
    ],
)
def test_a_path_that_is_no_directory_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    if name != "absent":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=sentence):
        Checkpoint.open(tmp_path / name)


FOREIGN_FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "a LoRA": (("pytorch_lora_weights.safetensors",), "is a LoRA .* and no checkpoint; export the model that"),
    "peft's LoRA": (("adapter_config.json", "adapter_model.safetensors"), "is a LoRA .adapter_model.safetensors."),
    "an embedding": (("learned_embeds.safetensors",), "is a textual inversion .* with --embedding"),
    "a component": (("config.json", "diffusion_pytorch_model.safetensors"), "is one component of a checkpoint; give"),
    "a single file": (("a.safetensors", "a.yaml"), "but the single file a.safetensors; give the path of that file"),
    "a pickle": (("a.ckpt",), "holds a.ckpt and no model_index.json; sfmobile reads .safetensors, no pickles"),
    "a quantised file": (("a.gguf",), "holds a.gguf and no model_index.json; .* no GGUF"),
    "nothing": ((), "model_index.json is missing; give the directory that holds it"),
}


@pytest.mark.parametrize("kind", FOREIGN_FOLDERS)
def test_a_folder_of_something_else_is_named_for_what_it_is(kind: str, tmp_path: Path) -> None:
    files, sentence = FOREIGN_FOLDERS[kind]
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=sentence) as refusal:
        Checkpoint.open(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("StableDiffusionXLPipeline", "text_encoder_2 is missing: a StableDiffusionXLPipeline has two text encoders"),
        ("StableDiffusion3Pipeline", "this is Stable Diffusion 3 .* is a transformer"),
        ("FluxPipeline", "this is Flux"),
        ("PixArtAlphaPipeline", "this is PixArt"),
        ("SanaPipeline", "this is Sana"),
        ("KandinskyV22Pipeline", "this is Kandinsky .* steered by a prior"),
        ("StableDiffusionImageVariationPipeline", "this is a model of image variation .* and not by text"),
        ("IFPipeline", "this is DeepFloyd IF"),
    ],
)
def test_a_known_model_that_is_none_of_ours_is_named(name: str, sentence: str, sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    rewrite_json(root / "model_index.json", _class_name=name)
    with pytest.raises(ArtifactError, match=sentence):
        Checkpoint.open(root)


def test_only_the_weights_that_are_asked_for_are_read(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    (root / "text_encoder" / "model.safetensors").rename(root / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="a pickle, which can run code"):
        Checkpoint.open(root)
    checkpoint = Checkpoint.open(root, parts=("unet", "decoder"))
    assert checkpoint.sha256("unet") == Checkpoint.open(sd1).sha256("unet")
    with pytest.raises(ArtifactError, match="a pickle, which can run code"):
        checkpoint.state_dict("text_encoder")


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_variant_is_read_where_it_stands_alone(variant: str, sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    (root / UNET).rename((root / UNET).with_suffix(f".{variant}.safetensors"))
    assert Checkpoint.open(root).sha256("unet") == Checkpoint.open(sd1).sha256("unet")


def test_what_isnt_read_is_said_truly(sd1: Path, tmp_path: Path) -> None:
    def refused(root: Path, sentence: str) -> None:
        with pytest.raises(ArtifactError, match=sentence):
            Checkpoint.open(root).load("unet")

    root = copied(sd1, tmp_path)
    rewrite_weights(root / UNET, lambda weights: {**weights, "conv_in.lora_A.default.weight": torch.ones(1)})
    refused(root, "was saved with a LoRA that isn't fused .*; call diffusers' fuse_lora")
    rewrite_weights(
        root / UNET, lambda weights: {"x" if "lora_A" in name else name: value for name, value in weights.items()}
    )
    refused(
        root, "holds unknown 'x', of which config.json's network has no use; diffusers would leave such weights out"
    )
    (root / UNET).rename((root / UNET).with_suffix(".non_ema.safetensors"))
    refused(root, "holds diffusion_pytorch_model.non_ema.safetensors, a variant that nothing says the kind of; rename")
    (root / UNET).with_suffix(".non_ema.safetensors").rename(root / "unet" / "adapter_model.safetensors")
    (root / "unet" / "adapter_config.json").write_text("{}")
    refused(root, "holds a LoRA that was saved by peft in place of the network")


def test_a_whole_clip_serves_as_text_encoder(sd1: Path, tmp_path: Path) -> None:
    root = copied(sd1, tmp_path)
    extra = {"vision_model.x": torch.ones(1), "logit_scale": torch.ones(1), "text_projection.weight": torch.ones(1)}
    rewrite_weights(root / "text_encoder" / "model.safetensors", lambda weights: {**weights, **extra})
    assert Checkpoint.open(root).sha256("text_encoder") == Checkpoint.open(sd1).sha256("text_encoder")
