"""Tokenizer folders with tokens that textual inversion added, in each layout that transformers has written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.tiny import TOKENIZER_DIR

ADDED = ("<cat-toy>", "Statue", "<x>", "<x>_1", "<x>_2", "two words")
FIRST_ID = 49408
_FLAGS = {"lstrip": False, "rstrip": False, "single_word": False}


def _plain(folder: Path) -> None:
    for file in ("vocab.json", "merges.txt"):
        shutil.copyfile(TOKENIZER_DIR / file, folder / file)


def _write(folder: Path, file: str, value: object) -> None:
    (folder / file).write_text(json.dumps(value))


def transformers_5(folder: Path) -> None:
    """All in `tokenizer.json`."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_DIR)
    tokenizer.add_tokens(list(ADDED))
    tokenizer.save_pretrained(folder)


def transformers_4_34(folder: Path) -> None:
    """`added_tokens.json`, and the same with flags in `tokenizer_config.json`."""
    _plain(folder)
    config = json.loads((TOKENIZER_DIR / "tokenizer_config.json").read_text())
    for index, token in enumerate(ADDED, start=FIRST_ID):
        config["added_tokens_decoder"][str(index)] = {"content": token, "normalized": True, "special": False, **_FLAGS}
    _write(folder, "tokenizer_config.json", config)
    _write(folder, "added_tokens.json", {token: index for index, token in enumerate(ADDED, start=FIRST_ID)})


def transformers_4_20(folder: Path) -> None:
    """`added_tokens.json` alone."""
    _plain(folder)
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    objects = {key: {"content": token, "normalized": True, **_FLAGS} for key, token in ends.items()}
    _write(folder, "special_tokens_map.json", {**objects, "pad_token": "<|endoftext|>"})
    _write(folder, "tokenizer_config.json", {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    _write(folder, "added_tokens.json", {token: index for index, token in enumerate(ADDED, start=FIRST_ID)})


def stable_diffusion_2(folder: Path) -> None:
    """No added token, but "!" for padding in one file, and the end of text in the other."""
    transformers_4_20(folder)
    (folder / "added_tokens.json").unlink()
    special = json.loads((folder / "special_tokens_map.json").read_text())
    _write(folder, "special_tokens_map.json", {**special, "pad_token": "!"})
    _write(folder, "tokenizer_config.json", {"pad_token": "<|endoftext|>", "model_max_length": 77})


def special_names(folder: Path) -> None:
    """Special tokens as bare strings, one of them added."""
    _plain(folder)
    names = {"bos_token": "<|startoftext|>", **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")}
    _write(folder, "special_tokens_map.json", {**names, "additional_special_tokens": ["<Toy>"]})
    _write(folder, "tokenizer_config.json", {"model_max_length": 77})
    _write(folder, "added_tokens.json", {"<Toy>": FIRST_ID, "<y>": FIRST_ID + 1})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "transformers 5": transformers_5,
    "transformers 4.34": transformers_4_34,
    "transformers 4.20": transformers_4_20,
    "Stable Diffusion 2": stable_diffusion_2,
    "special names": special_names,
}
# With diffusers' own writing out of several vectors.
PROMPTS = (
    "a <cat-toy> on a shelf",
    "a<cat-toy>b, <CAT-TOY>!",
    "Statue statue STATUES mystatue",
    "<x>",
    "<x> <x>_1 <X> <x>_7",
    "one two  words, <x><x>",
    "wow! hi!!? 't",
    "<|ENDOFTEXT|> a<|endoftext|>b <|startoftext|>",
    "<Toy> <toy> <y> <Y>",
    "é <x>é\u0301",
    "<x> " * 40,
)
