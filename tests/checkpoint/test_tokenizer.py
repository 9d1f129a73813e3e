from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from sfmobile.checkpoint.tokenizer import TokenizerConstants, copy_tokenizer, read_tokenizer
from sfmobile.errors import ArtifactError
from tests.tiny import TOKENIZER_DIR

CLIP = TokenizerConstants(vocabulary=49408, max_length=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)


def test_the_built_in_tokenizer_is_clips() -> None:
    assert read_tokenizer(TOKENIZER_DIR) == CLIP


def test_the_single_file_of_transformers_5_holds_the_same_tokenizer(tmp_path: Path) -> None:
    CLIPTokenizer.from_pretrained(TOKENIZER_DIR).save_pretrained(tmp_path / "fast")
    assert not (tmp_path / "fast" / "merges.txt").exists()
    assert read_tokenizer(tmp_path / "fast") == CLIP
    copy_tokenizer(tmp_path / "fast", tmp_path / "copy")
    assert (tmp_path / "copy" / "merges.txt").read_bytes() == (TOKENIZER_DIR / "merges.txt").read_bytes()
    copied, original = (
        json.loads((folder / "vocab.json").read_text()) for folder in (tmp_path / "copy", TOKENIZER_DIR)
    )
    assert copied == original


def test_merges_of_older_single_files_are_strings(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    copy_tokenizer(tmp_path, tmp_path / "copy")
    assert (tmp_path / "copy" / "merges.txt").read_text() == "#version: 0.2\na b\n"


@pytest.mark.parametrize("form", ["string", "object"])
def test_stable_diffusion_2_pads_with_an_exclamation_mark(form: str, tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER_DIR, tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    token = "!" if form == "string" else {"content": "!", "lstrip": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": token}))
    assert read_tokenizer(tmp_path).pad_token_id == 0


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("vocab.json", '{"a": "b"}', "vocab.json' is not a vocabulary of whole numbers by token at a: "),
        (
            "vocab.json",
            "[1]",
            "vocab.json' is not a JSON file of a diffusers-format checkpoint at its top: ",
        ),
        ("vocab.json", "{}", "vocab.json' holds no token: expected a vocabulary of whole numbers by token"),
        ("vocab.json", '{"a": 0}', "has no token '<|startoftext|>', which its config names as special"),
        ("merges.txt", None, "merges.txt is missing"),
        ("tokenizer_config.json", '{"pad_token": "<pad>"}', "has no token '<pad>'"),
        ("tokenizer_config.json", '{"pad_token": ["!"]}', "has no token '['!']'"),
    ],
)
def test_damaged_files_are_named(file: str, content: str | None, sentence: str, tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER_DIR, tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ArtifactError) as refusal:
        read_tokenizer(tmp_path)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"vocab": [1]}, "tokenizer.json' is not a vocabulary of whole numbers by token at its top: "),
        ({"vocab": {"a": 0}, "merges": [1]}, "tokenizer.json' is not byte-pair merges at 0"),
        ({"vocab": {"a": 0}, "merges": [["a"]]}, "tokenizer.json' is not byte-pair merges at 0"),
        ({"vocab": {"a": 0}, "merges": ["a a"]}, "'a a' is no merge of two tokens"),
    ],
)
def test_a_damaged_single_file_is_named(model: dict[str, object], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", **model}}))
    with pytest.raises(ArtifactError) as refusal:
        copy_tokenizer(tmp_path, tmp_path / "copy")
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("file", ["README.md", "special_tokens_map.json", "vocab.json", "merges.txt"])
def test_a_link_out_of_the_checkpoint_is_not_copied_into_a_bundle(file: str, tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER_DIR, tmp_path / "checkpoint" / "tokenizer")
    here = tmp_path / "checkpoint" / "tokenizer" / file
    private = tmp_path / "private"
    private.write_bytes(here.read_bytes() if here.exists() else b"a password")
    here.unlink(missing_ok=True)
    here.symlink_to(private)
    with pytest.raises(ArtifactError, match=rf"{file}' is a link that leaves '.*/checkpoint', to '.*/private'; put"):
        copy_tokenizer(tmp_path / "checkpoint" / "tokenizer", tmp_path / "copy")
    assert not (tmp_path / "copy" / file).exists()


def test_links_within_a_checkpoint_and_those_of_the_hubs_cache_are_copied_as_files(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    copy_tokenizer(TOKENIZER_DIR, snapshot / "tokenizer")
    blobs.mkdir()
    (blobs / "1").write_text("from the Hub")
    (snapshot / "tokenizer" / "README.md").unlink()
    (snapshot / "tokenizer" / "README.md").symlink_to("../../../blobs/1")
    (snapshot / "vocab.json").write_bytes((snapshot / "tokenizer" / "vocab.json").read_bytes())
    (snapshot / "tokenizer" / "vocab.json").unlink()
    (snapshot / "tokenizer" / "vocab.json").symlink_to("../vocab.json")
    copy_tokenizer(snapshot / "tokenizer", tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "from the Hub"
    assert not any(path.is_symlink() for path in (tmp_path / "copy").iterdir())
