from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from sfmobile.bundle.overlays import EmbeddingRecord, LoraRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.checkpoint.tokenizer import copy_tokenizer, read_tokenizer
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.opening import has_source, open_source
from sfmobile.sampling.tokenizer import Tokenizer
from tests.checkpoint.diffusers_files import stable_diffusion_1
from tests.nets.oracles import PARITY_DB, agreement_db, as_context

WIDTH = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embedding") / "base"
    stable_diffusion_1().save_pretrained(root)
    return root


def test_tokens_and_hidden_states_are_those_of_diffusers(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    files = {"one": torch.randn(WIDTH), "<toy>": torch.randn(3, WIDTH)}
    for index, (token, vectors) in enumerate(files.items()):
        save_file({token: vectors}, tmp_path / f"{index}.safetensors")
    save_file({"emb_params": torch.randn(2, WIDTH)}, tmp_path / "neg-style.safetensors")
    theirs = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    paths = [tmp_path / name for name in ("0.safetensors", "1.safetensors", "neg-style.safetensors")]
    for path, token in zip(paths, ("<one>", None, "neg-style"), strict=True):
        theirs.load_textual_inversion(path.parent, weight_name=path.name, token=token)
    ours = open_checkpoint(base, embedding=[f"{paths[0]}:<one>", *paths[1:]])
    assert ours.tokenizer.added_tokens | theirs.tokenizer.get_added_vocab() == ours.tokenizer.added_tokens
    assert [record.tokens[0] for record in ours.laid.records] == ["<one>", "<toy>", "neg-style"]
    tokenizer = Tokenizer(ours.tokenizer_dir, ours.tokenizer)
    prompt = "a <toy> in <ONE> neg-style, <one>"
    expected, _ = theirs.encode_prompt(prompt, "cpu", 1, False)
    ids = torch.from_numpy(tokenizer.encode(prompt)).long()
    with torch.no_grad():
        found = ours.load("text_encoder")(ids)
    assert agreement_db(as_context(expected.detach()), found) >= PARITY_DB
    copy_tokenizer(ours.tokenizer_dir, tmp_path / "copy", ours.tokenizer)
    assert read_tokenizer(tmp_path / "copy").added_tokens == ours.tokenizer.added_tokens


def test_what_is_laid_over_is_in_the_bundle_and_found_again(base: Path, tmp_path: Path, monkeypatch) -> None:
    save_file({"<toy>": torch.ones(2, WIDTH)}, tmp_path / "toy.safetensors")
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    lora = {f"{layer}.lora_down.weight": torch.ones(1, WIDTH), f"{layer}.lora_up.weight": torch.ones(48, 1)}
    save_file(lora, tmp_path / "lora.safetensors")
    monkeypatch.chdir(base.parent)
    source = open_checkpoint(
        base.name, lora=[f"{tmp_path / 'lora.safetensors'}:0.5"], embedding=[tmp_path / "toy.safetensors"]
    )
    bundle = export_bundle(source, tmp_path / "bundle", ExportOptions(components=("text_encoder",)))
    monkeypatch.chdir(tmp_path)
    manifest = bundle.manifest
    assert [type(record) for record in manifest.source.overlays] == [LoraRecord, EmbeddingRecord]
    assert manifest.tokenizer.added_tokens["<toy>_1"] == 49409
    assert Tokenizer(bundle.tokenizer_dir, manifest.tokenizer).encode("<toy>")[0, 1:3].tolist() == [49408, 49409]
    # Its weights are compared with what was exported.
    assert open_source(bundle).tokenizer == source.tokenizer
    # What has moved is found beside the checkpoint, by its name; what it must be is recorded.
    moved = base.parent / "lora.safetensors"
    (tmp_path / "lora.safetensors").rename(moved)
    assert has_source(bundle, base) and open_source(bundle).sha256("text_encoder") == source.sha256("text_encoder")
    save_file({key: 2 * tensor for key, tensor in lora.items()}, moved)
    with pytest.raises(ArtifactError, match=r"lora.safetensors"):
        open_source(bundle)
    moved.unlink()
    assert not has_source(bundle, base)
    with pytest.raises(UsageError, match=r"lora.safetensors', which '.*' was exported with, isn't here; put it back"):
        open_source(bundle)


DAMAGE: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "another width": ({"<x>": torch.ones(768)}, "vectors of 768 numbers and the text encoder's tokens have 24"),
    "Stable Diffusion XL's": (
        {"clip_l": torch.ones(768), "clip_g": torch.ones(1280)},
        "for the two text encoders of Stable Diffusion XL",
    ),
    "two tensors": ({"a": torch.ones(WIDTH), "b": torch.ones(WIDTH)}, "holds 2 tensors; expected the one of"),
    "nothing": ({}, "holds 0 tensors"),
    "a number": ({"<x>": torch.tensor(1.0)}, r"of shape \(\); expected vectors of 24"),
    "no vector": ({"<x>": torch.ones(0, WIDTH)}, r"of shape \(0, 24\); expected vectors of 24"),
    "a cube": ({"<x>": torch.ones(1, 1, WIDTH)}, r"of shape \(1, 1, 24\); expected vectors"),
    "whole numbers": ({"<x>": torch.ones(WIDTH, dtype=torch.int32)}, "is I32 of shape"),
    "too many": ({"<x>": torch.ones(76, WIDTH)}, "holds 76 vectors and a prompt has room for 75"),
    "NaN": ({"<x>": torch.full((WIDTH,), math.nan)}, "hold infinite values or NaN"),
    "a word": ({"cat": torch.ones(WIDTH)}, "'cat' can't be its token, since the tokenizer has 'cat' already"),
    "the end of text": ({"<|ENDOFTEXT|>": torch.ones(WIDTH)}, "since the tokenizer has '<|endoftext|>' already"),
    "white space": ({" ": torch.ones(WIDTH)}, "since it is nothing but white space"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_or_for_another_model_is_refused_in_one_sentence(
    damage: str, base: Path, tmp_path: Path
) -> None:
    tensors, sentence = DAMAGE[damage]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match=sentence.replace("|", r"\|")) as refusal:
        open_checkpoint(base, embedding=[tmp_path / "a.safetensors"])
    assert "\n" not in str(refusal.value) and "a.safetensors" in str(refusal.value)


def test_two_files_can_not_have_one_token(base: Path, tmp_path: Path) -> None:
    save_file({"<X>": torch.ones(WIDTH)}, tmp_path / "a.safetensors")
    save_file({"<x>": torch.ones(WIDTH)}, tmp_path / "b.safetensors")
    with pytest.raises(ArtifactError, match="since the tokenizer has '<X>' already"):
        open_checkpoint(base, embedding=[tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_a_file_that_is_not_there_and_an_empty_token_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="doesn't exist; expected a file of textual inversion"):
        open_checkpoint(base, embedding=[tmp_path / "absent.safetensors"])
    with pytest.raises(UsageError, match="the token is empty"):
        open_checkpoint(base, embedding=[f"{tmp_path / 'absent.safetensors'}:"])


def test_an_opened_checkpoint_without_anything_laid_over_it_is_as_before(base: Path) -> None:
    assert open_checkpoint(base).sha256("text_encoder") == Checkpoint.open(base).sha256("text_encoder")
