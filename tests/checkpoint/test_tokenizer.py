from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from sfmobile.checkpoint.tokenizer import TokenizerConstants, copy_tokenizer, read_tokenizer
from sfmobile.errors import ArtifactError
from tests.checkpoint.added_tokens import ADDED, FIRST_ID, LAYOUTS, stable_diffusion_2
from tests.tiny import TOKENIZER_DIR

ENDS = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
CLIP = TokenizerConstants(
    vocabulary=49408,
    max_length=77,
    bos_token_id=49406,
    eos_token_id=49407,
    pad_token_id=49407,
    added_tokens=ENDS,
)


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


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("transformers")])
def test_added_tokens_are_read_whatever_wrote_them(layout: str, added_tokenizers: dict[str, Path]) -> None:
    constants = read_tokenizer(added_tokenizers[layout])
    new = {token: index for index, token in enumerate(ADDED, start=FIRST_ID)}
    assert constants.added_tokens | constants.exact_tokens == {**ENDS, **new}
    assert not set(new) & set(constants.exact_tokens)
    assert constants.vocabulary == FIRST_ID + len(ADDED)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_is_the_same_tokenizer(layout: str, added_tokenizers: dict[str, Path], tmp_path: Path) -> None:
    source = added_tokenizers[layout]
    copy_tokenizer(source, tmp_path)
    assert read_tokenizer(tmp_path) == read_tokenizer(source)
    if layout == "transformers 5":
        theirs = [CLIPTokenizer.from_pretrained(folder) for folder in (source, tmp_path)]
        assert theirs[0].get_added_vocab() == theirs[1].get_added_vocab()


def test_the_map_of_special_tokens_comes_before_the_configuration_as_in_transformers(tmp_path: Path) -> None:
    stable_diffusion_2(tmp_path)
    constants = read_tokenizer(tmp_path)
    assert (constants.pad_token_id, constants.exact_tokens) == (0, {"!": 0})
    assert CLIPTokenizer.from_pretrained(tmp_path).pad_token_id == 0


def decoder_of(index: object, **token: object) -> str:
    return json.dumps({"added_tokens_decoder": {str(index): token}})


ADDED_DAMAGE: dict[str, tuple[str, str, str]] = {
    "not an object": ("added_tokens.json", "[]", "added_tokens.json' is not a JSON file"),
    "no number": ("added_tokens.json", '{"<x>": "1"}', "is not ids by added token at <x>: "),
    "a gap": ("added_tokens.json", '{"<x>": 49409}', "'<x>' the id 49409, and transformers would give it 49408"),
    "a negative id": ("added_tokens.json", '{"<x>": -1}', "at <x>: .*greater than or equal to 0, found -1"),
    "an id beyond numbers": ("added_tokens.json", '{"<x>": 1e99}', "is not ids by added token at <x>"),
    "an id beyond 32 bits": ("added_tokens.json", '{"<x>": 4294967296}', "is not ids by added token at <x>"),
    "a token of the vocabulary": ("added_tokens.json", '{"cat</w>": 49408}', "would give it 2368"),
    "two of one id": ("added_tokens.json", '{"<x>": 49408, "<y>": 49408}', "gives '<x>' and '<y>' one id, 49408"),
    "white space": ("added_tokens.json", '{"  ": 49408}', "a token of nothing but white space"),
    "an empty token": ("added_tokens.json", '{"": 49408}', "a token of nothing but white space"),
    "two that differ in case": ("added_tokens.json", '{"<X>": 49408, "<x>": 49409}', "'<X>' and '<x>', which are one"),
    "one id for one token twice": (
        "tokenizer_config.json",
        json.dumps({"added_tokens_decoder": {"49408": {"content": "<x>"}, "49409": {"content": "<x>"}}}),
        "'<x>' the id 49409, and transformers would give it 49408",
    ),
    "whole words only": (
        "tokenizer_config.json",
        decoder_of(49408, content="<x>", single_word=True),
        "is a whole word",
    ),
    "no content": ("tokenizer_config.json", decoder_of(49408), "is not added tokens by id at 49408.content: "),
    "an id that is a word": ("tokenizer_config.json", decoder_of("x", content="<x>"), "is not added tokens by id at"),
    "a special token of no kind": ("special_tokens_map.json", '{"extra_special_tokens": [1]}', "has no token '1'"),
    "a special token without a row": (
        "special_tokens_map.json",
        '{"additional_special_tokens": ["<z>"]}',
        "has no token '<z>', which its config names as special",
    ),
    "tokens that the configuration leaves out": (
        "tokenizer.json",
        json.dumps({"added_tokens": [{"id": 49408, "content": "<x>"}]}),
        "tokenizer.json adds the token '<x>', and tokenizer_config.json lists the added tokens without it",
    ),
}


@pytest.mark.parametrize("damage", ADDED_DAMAGE)
def test_damaged_added_tokens_are_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    file, content, sentence = ADDED_DAMAGE[damage]
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((TOKENIZER_DIR / name).read_bytes())
    if file == "tokenizer.json":
        (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
        model = {"vocab": json.loads((TOKENIZER_DIR / "vocab.json").read_text())}
        content = json.dumps({**json.loads(content), "model": model})
    (tmp_path / file).write_text(content)
    with pytest.raises(ArtifactError, match=sentence) as refusal:
        read_tokenizer(tmp_path)
    assert "\n" not in str(refusal.value)


def test_two_vocabularies_of_one_folder_must_be_one(tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER_DIR, tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}}))
    with pytest.raises(ArtifactError, match=r"vocab.json and tokenizer.json beside it hold different vocabularies"):
        read_tokenizer(tmp_path)


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
        ("special_tokens_map.json", '{"pad_token": "<pad>"}', "has no token '<pad>'"),
        ("special_tokens_map.json", '{"pad_token": ["!"]}', "has no token '['!']'"),
    ],
)
def test_damaged_files_are_named(file: str, content: str | None, sentence: str, tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER_DIR, tmp_path)
    if file == "special_tokens_map.json":
        # Where it lists the added tokens, transformers reads this one alone.
        (tmp_path / "tokenizer_config.json").unlink()
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
