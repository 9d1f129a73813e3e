"""Every key of a tokenizer's config files has another value here: ours is refused, or gives transformers' ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from sfmobile.checkpoint.tokenizer import read_tokenizer
from sfmobile.errors import ArtifactError
from sfmobile.sampling.tokenizer import Tokenizer

START, END, MARK = "<|startoftext|>", "<|endoftext|>", "<m>"
LENGTH = 12
# The mark stands where only some keys find it, at the beginning of a text too long and inside of a short one.
TEXTS = ("", "a cat", f"A {MARK} cat", f"{MARK}a {START}cat{END} b", "cat a b " * 8, f"a{MARK.upper()} ! b")

OBJECT = {"content": MARK, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
# What a value may be in either file.
SPECIAL: dict[str, list[Any]] = {
    **{key: [MARK, "!", OBJECT] for key in ("unk_token", "pad_token", "sep_token", "cls_token", "mask_token")},
    "bos_token": ["b</w>", {**OBJECT, "content": "b</w>"}],
    "eos_token": ["b</w>", {**OBJECT, "content": "b</w>"}],
    "additional_special_tokens": [[MARK], [OBJECT], ["<no>"]],
    "extra_special_tokens": [[MARK], {"mark": MARK}],
    "model_specific_special_tokens": [{"mark": MARK}],
    "own_token": [MARK],
}
CONFIG: dict[str, list[Any]] = {
    **SPECIAL,
    "model_max_length": [7, 10**30],
    "max_len": [7],
    "padding_side": ["left"],
    "truncation_side": ["left"],
    "split_special_tokens": [True],
    "added_tokens_decoder": [
        {"3": {**OBJECT, "special": False}},
        {"3": {**OBJECT, "special": True}},
        {"3": {**OBJECT, "normalized": True}},
        {"3": {**OBJECT, "lstrip": True, "rstrip": True}},
        {"3": {**OBJECT, "single_word": True}},
        {"99": {**OBJECT, "content": "<new>"}},
    ],
    "add_prefix_space": [True],
    "add_bos_token": [False],
    "add_eos_token": [False],
    "do_lower_case": [False],
    "errors": ["strict"],
    "clean_up_tokenization_spaces": [True],
    "tokenizer_class": ["BertTokenizer"],
    "model_input_names": [["input_ids"]],
    "name_or_path": ["other"],
    "unknown": [True],
}


def folder_of(root: Path, config: dict[str, Any], special: dict[str, Any] | None = None) -> Path:
    """A tokenizer of bytes, a few words and a mark that no text is split into."""
    letters = sorted(ByteLevel.alphabet())
    words = [START, END, "!", MARK, *letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    (root / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(dict.fromkeys(words))}))
    (root / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    (root / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH, **config}))
    if special is not None:
        (root / "special_tokens_map.json").write_text(json.dumps(special))
    return root


def check(folder: Path) -> None:
    """Refused, or equal ids of every text."""
    try:
        constants = read_tokenizer(folder)
    except ArtifactError:
        return
    try:
        theirs = CLIPTokenizer.from_pretrained(folder)
    except TypeError:
        # Objects of tokens, as transformers 4 wrote them in some places where 5 takes texts alone.
        return
    ours = Tokenizer(folder, constants)
    for text in TEXTS:
        # As diffusers' pipelines ask.
        asked = {"padding": "max_length", "max_length": min(theirs.model_max_length, 77), "truncation": True}
        assert ours.encode(text)[0].tolist() == theirs(text, **asked).input_ids, text


@pytest.mark.parametrize("key", CONFIG)
def test_a_key_of_the_config_is_refused_or_read_as_in_transformers(key: str, tmp_path: Path) -> None:
    for value in CONFIG[key]:
        check(folder_of(tmp_path, {key: value}))


@pytest.mark.parametrize("key", SPECIAL)
def test_a_key_of_the_special_tokens_is_refused_or_read_as_in_transformers(key: str, tmp_path: Path) -> None:
    for value in SPECIAL[key]:
        check(folder_of(tmp_path, {}, {key: value}))


@pytest.mark.parametrize(
    ("key", "value"), [("padding_side", "left"), ("truncation_side", "left"), ("split_special_tokens", True)]
)
def test_what_would_give_other_ids_is_refused_by_name(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"tokenizer_config.json: '{key}' is {value!r}; expected "):
        read_tokenizer(folder_of(tmp_path, {key: value}))
