"""CLIP tokenizer directories: vocabulary, merges and special tokens, in either of the two forms they come in.

`vocab.json` and `merges.txt` are the original form and the one bundles hold; transformers 5 writes `tokenizer.json`
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import StrictInt

from sfmobile.checkpoint.config import Json, read_config
from sfmobile.errors import ArtifactError
from sfmobile.files import copy_inside, json_text, read_text, validated

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
FAST_FILE = "tokenizer.json"
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "README.md")
MAX_LENGTH = 77
MEND = "copy it again"
LINK_MEND = "put the file itself there if the bundle is to hold it"


@dataclass(frozen=True)
class TokenizerConstants:
    """`vocabulary` is one more than the largest token id."""

    vocabulary: int
    max_length: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


def read_tokenizer(folder: Path) -> TokenizerConstants:
    """Constants of the CLIP tokenizer in `folder`; raises `ArtifactError` if a file is missing or an id unknown.

    Special tokens are those of `special_tokens_map.json` or `tokenizer_config.json`, CLIP's own where neither names
    them. Stable Diffusion 2 pads with "!" and not with the end token.
    """
    vocab = read_vocabulary(folder)
    if not any((folder / file).is_file() for file in (MERGES_FILE, FAST_FILE)):
        raise ArtifactError(
            f"{folder / MERGES_FILE} is missing; expected CLIP's byte-pair merges beside the vocabulary."
        )
    names: Json = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            config = read_config(folder / file)
            names |= {key: config[key] for key in names if config.get(key) is not None}
    ids = {key: _token_id(vocab, value, folder) for key, value in names.items()}
    return TokenizerConstants(
        vocabulary=max(vocab.values()) + 1,
        max_length=MAX_LENGTH,
        bos_token_id=ids["bos_token"],
        eos_token_id=ids["eos_token"],
        pad_token_id=ids["pad_token"],
    )


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Token ids by token, from whichever form `folder` holds."""
    file = folder / VOCAB_FILE
    if file.is_file() or not (folder / FAST_FILE).is_file():
        vocab = read_config(file)
    else:
        file = folder / FAST_FILE
        vocab = _fast_model(file).get("vocab", {})
    ids = validated(dict[str, StrictInt], vocab, f"'{file}'", "a vocabulary of whole numbers by token", MEND)
    if not ids:
        raise ArtifactError(f"'{file}' holds no token: expected a vocabulary of whole numbers by token; {MEND}.")
    return ids


def read_merges(folder: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens to merge, in order of priority; each of the three tokens must be in `vocab`."""
    file = folder / MERGES_FILE
    if file.is_file() or not (folder / FAST_FILE).is_file():
        pairs = _merge_lines(file)
    else:
        file = folder / FAST_FILE
        pairs = _fast_model(file).get("merges", [])
    merges = []
    # transformers writes a pair as "a b" up to version 4 and as ["a", "b"] since.
    for pair in validated(list[str | tuple[str, str]], pairs, f"'{file}'", "byte-pair merges", MEND):
        first, second = pair.partition(" ")[::2] if isinstance(pair, str) else pair
        if first not in vocab or second not in vocab or first + second not in vocab:
            raise ArtifactError(
                f"{file}: '{first} {second}' is no merge of two tokens of the vocabulary; copy it again."
            )
        merges.append((first, second))
    return merges


def _merge_lines(file: Path) -> list[str]:
    lines = read_text(file, "CLIP's byte-pair merges beside the vocabulary", MEND).split("\n")
    # The first line names the version; a token may itself begin with "#".
    start = 1 if lines[0].startswith("#version") else 0
    return [line for line in lines[start:] if line]


def _fast_model(file: Path) -> Json:
    model = read_config(file).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ArtifactError(f"{file} holds no byte-pair model; expected CLIP's tokenizer.")
    return model


def _token_id(vocab: dict[str, int], name: Any, folder: Path) -> int:
    # transformers writes special tokens as strings or as objects with their content.
    token = name.get("content") if isinstance(name, dict) else name
    if not isinstance(token, str) or token not in vocab:
        raise ArtifactError(f"The vocabulary in {folder} has no token '{token}', which its config names as special.")
    return vocab[token]


def copy_tokenizer(source: Path, target: Path) -> None:
    """Put the tokenizer of `source` into `target`, as vocab.json and merges.txt whatever form `source` has."""
    target.mkdir(parents=True, exist_ok=True)
    if (source / VOCAB_FILE).is_file():
        for file in (VOCAB_FILE, MERGES_FILE):
            copy_inside(source / file, target / file, source.resolve().parent, LINK_MEND)
    else:
        vocab = read_vocabulary(source)
        (target / VOCAB_FILE).write_text(json_text(vocab), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{first} {second}" for first, second in read_merges(source, vocab)), ""]
        (target / MERGES_FILE).write_text("\n".join(lines), encoding="utf-8")
    for file in CONFIG_FILES:
        if (source / file).is_file():
            copy_inside(source / file, target / file, source.resolve().parent, LINK_MEND)
